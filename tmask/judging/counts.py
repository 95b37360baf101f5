"""How many entries a mask keeps in each row and column of its blocks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tmask.blocks.arrays import Masks
from tmask.judging.compiled import find_compiled_kernels


def count_lines(masks: Masks) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(B, m) entries kept in each row, and in each column, of masks (B, m, m)."""
    # The compiled loop reads the masks once, numpy once for rows and once for columns.
    if (kernels := find_compiled_kernels()) is None:
        return masks.sum(2, dtype=np.int64), masks.sum(1, dtype=np.int64)
    rows, cols = np.empty(masks.shape[:2], np.int64), np.empty(masks.shape[:2], np.int64)
    kernels.count_lines(masks, rows, cols)
    return rows, cols

"""Blocks in bands, one a thread: for kernels that release the interpreter's lock and treat each block alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np


def bands_that_pay(cores: int, size: int, least: int) -> int:
    """One for each core, but none of less than `least` entries of the `size` that there are.

    To start threads takes a fifth of a millisecond, and some milliseconds where other processes keep the cores busy.
    """
    return max(1, min(cores, size // least))


def in_bands(solve_band: Callable[[slice], object], num_blocks: int, threads: int) -> None:
    """Call `solve_band` on consecutive slices that cover all blocks; never more of them than blocks."""
    edges = np.linspace(0, num_blocks, min(threads, num_blocks) + 1).astype(int)
    bands = [slice(*pair) for pair in pairwise(edges)]
    if len(bands) == 1:
        solve_band(bands[0])
        return
    with ThreadPoolExecutor(len(bands)) as pool:
        # As a list, so that what a band raises is raised here, and not dropped with the iterator.
        list(pool.map(solve_band, bands))

"""Objectives as integers, so that two of them are equal or not."""

import numpy as np

from tmask_solvers.shared.constants import GRID_BITS
from tmask_solvers.shared.integer import integer_scores


def grid_objectives(scores: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(B,) int64: kept units of 2^(e - 46), 2^e above the block's largest score; below 2^56, so nothing overflows."""
    return np.where(masks, integer_scores(scores), 0).sum((1, 2))


def on_grid(scores: np.ndarray) -> np.ndarray:
    """(B,) bool: no score was rounded to an integer."""
    exponent = np.frexp(scores.max((1, 2), keepdims=True).astype(np.float64))[1]
    return (np.ldexp(integer_scores(scores).astype(np.float64), exponent - GRID_BITS) == scores).all((1, 2))


def assert_same_objectives(scores: np.ndarray, masks: np.ndarray, reference: np.ndarray, n: int) -> None:
    """Equal to the unit; where scores were rounded, within what that may cost."""
    difference = np.abs(grid_objectives(scores, masks) - grid_objectives(scores, reference))
    allowed = np.where(on_grid(scores), 0, n * scores.shape[1])
    assert (difference <= allowed).all(), f"{int((difference > allowed).sum())} of {len(scores)} blocks differ"

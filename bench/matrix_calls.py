"""The matrices of bench.matrix, and the calls on them that it times."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

import tmask
from bench.cases import Case
from bench.turns import Row
from tmask.blocks.pattern import Pattern

Matrix = npt.NDArray[Any]

SIDE = 2048


def matrix(case: Case, pattern: Pattern, side: int = SIDE) -> Matrix:
    """(side, side) float32 made of a case's blocks, which repeat if there are too few."""
    m = pattern.m
    count = (side // m) ** 2
    blocks = case.blocks(pattern, count)
    blocks = np.resize(blocks, (count, m, m)).reshape(side // m, side // m, m, m)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3)).reshape(side, side)


def solving(weight: Any, pattern: Pattern, solver: str, certify: bool = True, **settings: Any) -> Callable[[], Row]:
    """A call of `tmask.solve` that makes a row."""

    def call() -> Row:
        solution = tmask.solve(weight, pattern, solver, certify=certify, **settings)
        return {
            "blocks": weight.shape[0] * weight.shape[1] // pattern.m**2,
            "solver_seconds": solution.seconds,
            "objective": solution.objective,
            "dual_bound": solution.dual_bound,
            "gap": solution.optimality_gap,
            "threads": settings.get("threads", 1),
        }

    return call


@numba.njit(nogil=True)
def _copy_signs(weight: Matrix, mask: Matrix) -> None:
    for i in range(weight.size):
        mask[i] = weight[i] > 0


def floor(weight: Matrix, pattern: Pattern, threads: int = 1) -> Callable[[], Row]:
    """Read the matrix and write a mask, with no thought: the least time that any solver can take."""
    flat = weight.ravel()
    edges = np.linspace(0, flat.size, threads + 1).astype(int)
    bands = [slice(*pair) for pair in pairwise(edges)]

    def call() -> Row:
        mask = np.empty(flat.size, np.bool_)
        if threads == 1:
            _copy_signs(flat, mask)
        else:
            with ThreadPoolExecutor(threads) as pool:  # started anew for each call, as a solver does
                list(pool.map(lambda band: _copy_signs(flat[band], mask[band]), bands))
        return {"blocks": weight.size // pattern.m**2, "threads": threads}

    return call

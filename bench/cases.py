"""The one list of cases: what blocks the benchmark measures, and the tests check, solvers on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tmask.blocks.arrays import to_scores
from tmask.blocks.pattern import Pattern
from tmask.blocks.tiling import Tiling
from tmask.comparison.builtin import builtin_weights
from tmask.errors import InvalidProblemError
from tmask.files.layers import select_layers
from tmask.files.opening import open_weights

Blocks = npt.NDArray[np.float32]
Shape = tuple[int, int, int]
Generator = Callable[[np.random.Generator, Shape], npt.NDArray[np.floating[Any]]]


@dataclass(frozen=True, slots=True)
class Case:
    """A named source of blocks.

    Args:
        make: scores (B, m, m) from a random generator and that shape.
    """

    name: str
    seed: int
    make: Generator

    def blocks(self, pattern: Pattern, count: int) -> Blocks:
        """(count, m, m) float32 scores, >= 0; the same on every call. Real weights may hold fewer."""
        rng = np.random.default_rng((self.seed, pattern.m))
        return np.ascontiguousarray(self.make(rng, (count, pattern.m, pattern.m)), dtype=np.float32)


def _normal(rng: np.random.Generator, shape: Shape) -> Blocks:
    return np.abs(rng.standard_normal(shape, dtype=np.float32))


def bfloat16(x: Blocks) -> Blocks:
    """Rounded to the nearest bfloat16, ties to even, held as float32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    # Just under half a step, or half where the last kept bit is odd: a tie then goes to the even one.
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.asarray(bits.view(np.float32))


def _low_rank(rng: np.random.Generator, shape: Shape) -> Blocks:
    """|U V^T| of rank 2 with a tenth of noise."""
    count, side, _ = shape
    product = np.einsum("bik,bjk->bij", rng.standard_normal((count, side, 2)), rng.standard_normal((count, side, 2)))
    return np.asarray(np.abs(product + 0.1 * rng.standard_normal(shape)), np.float32)


def weight_case(path: Path, name: str | None = None) -> Case:
    """All full blocks of a weight file's layers, in random order."""

    def make(rng: np.random.Generator, shape: Shape) -> Blocks:
        file = open_weights(path)
        pattern = Pattern(1, shape[1])
        parts = []
        for layer in select_layers(file).layers:
            tiling = Tiling(layer.shape, pattern, layer.groups, layer.layout)
            scores = to_scores(file.read(layer.name).values())
            parts += [b for r, b in zip(tiling.regions(), tiling.split(scores), strict=True) if r.full]
        if not parts:
            raise InvalidProblemError(f"{path} has no full {pattern.m} x {pattern.m} block")
        blocks = np.concatenate(parts).astype(np.float32)
        return blocks[rng.permutation(len(blocks))[: shape[0]]]

    return Case(name or path.stem, 7, make)


CASES = (
    Case("normal", 1, _normal),
    Case("heavy-tailed", 2, lambda rng, shape: np.abs(rng.standard_t(2, shape))),
    Case("bf16", 3, lambda rng, shape: bfloat16(_normal(rng, shape))),
    Case("low-rank", 4, _low_rank),
    Case("half-zeros", 5, lambda rng, shape: _normal(rng, shape) * rng.integers(0, 2, shape)),
    Case("small-integers", 6, lambda rng, shape: rng.integers(0, 8, shape).astype(np.float32)),
    weight_case(builtin_weights(), "digits"),
)
PATTERNS = tuple(Pattern.parse(text) for text in ("1:4", "2:4", "2:8", "4:8", "8:16", "16:32"))

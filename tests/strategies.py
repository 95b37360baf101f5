"""Blocks that hypothesis draws: every kind that has broken a solver, or could."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

KINDS = {
    "normal": lambda rng, shape: np.abs(rng.standard_normal(shape)),
    "bf16": lambda rng, shape: bfloat16(np.abs(rng.standard_normal(shape))),
    "ties": lambda rng, shape: rng.integers(0, 4, shape).astype(float),
    "half zeros": lambda rng, shape: np.abs(rng.standard_normal(shape)) * rng.integers(0, 2, shape),
    "constant": lambda rng, shape: np.full(shape, 0.7),
    "zero": lambda rng, shape: np.zeros(shape),
    "one huge": lambda rng, shape: _one_huge(rng, shape),
    "rank one": lambda rng, shape: np.abs(
        rng.standard_normal((*shape[:2], 1)) * rng.standard_normal((shape[0], 1, shape[2]))
    ),
    "subnormal": lambda rng, shape: rng.integers(0, 50, shape) * 2.0**-149,
    "huge": lambda rng, shape: np.abs(rng.standard_normal(shape)) * 5e34,
    "wide range": lambda rng, shape: np.exp(6 * rng.standard_normal(shape)),
    "one ulp apart": lambda rng, shape: 1 + rng.integers(0, 3, shape) * 2.0**-23,
}


def make_blocks(kind: str, count: int, side: int, seed: int = 0) -> np.ndarray:
    """(count, side, side) float32 scores of one kind."""
    rng = np.random.default_rng(seed)
    return np.ascontiguousarray(KINDS[kind](rng, (count, side, side)), dtype=np.float32)


def bfloat16(x: np.ndarray) -> np.ndarray:
    """Rounded towards zero to the 8 significant bits of bfloat16."""
    bits = np.asarray(x, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def _one_huge(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    x = np.abs(rng.standard_normal(shape))
    x[:, 0, -1] = 1e6
    return x


@st.composite
def blocks(draw, sides=(2, 3, 4, 5, 6, 7, 8, 12), max_count=3):
    """(scores (B, m, m) float32, n) with 0 < n <= m."""
    side = draw(st.sampled_from(sides))
    n = draw(st.integers(1, side))
    kind = draw(st.sampled_from(sorted(KINDS)))
    return make_blocks(kind, draw(st.integers(1, max_count)), side, draw(st.integers(0, 2**32 - 1))), n

"""Blocks made to defeat the midpoint iteration, against augmenting paths (which are checked against OR-Tools)."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import tmask
from tests.grid import assert_same_objectives, on_grid
from tmask.judging.duals import is_regular, proves_optimal

ROOT = Path(__file__).parents[2]
FEW = [(1, 2), (2, 3), (5, 7), (9, 17), (31, 32)]  # each is compiled, which takes seconds
ULP = 2.0**-23


def circulants(rng, shape, n):
    """Bool: n per line, lines in random order."""
    side = shape[1]
    base = (np.arange(side) - np.arange(side)[:, None]) % side < n
    return np.array([base[rng.permutation(side)][:, rng.permutation(side)] for _ in range(shape[0])])


def normal(rng, shape):
    return np.abs(rng.standard_normal(shape))


def int8(rng, shape):
    """As weights quantised to 127 steps, one scale a block."""
    x = normal(rng, shape)
    scale = np.float32(x.max((1, 2), keepdims=True) / 127)
    return np.rint(x / scale) * scale


def columns(shape):
    return (*shape[:2], 1)


def rows(shape):
    return (shape[0], 1, shape[2])


def crossed(combine, draw, shape):
    """A row vector and a column vector, combined."""
    return combine(draw(columns(shape)), draw(rows(shape)))


ADVERSARIES = {
    "constant": lambda rng, shape, n: np.full(shape, 0.7),
    "zero or one": lambda rng, shape, n: rng.integers(0, 2, shape),
    "two values an ulp apart": lambda rng, shape, n: 1 + ULP * rng.integers(0, 2, shape),
    "four values an ulp apart": lambda rng, shape, n: 0.7 + ULP * rng.integers(0, 4, shape),
    "ulps below one": lambda rng, shape, n: 1 - ULP / 2 * rng.integers(0, 4, shape),
    "equal rows": lambda rng, shape, n: normal(rng, rows(shape)) + np.zeros(shape),
    "equal columns": lambda rng, shape, n: normal(rng, columns(shape)) + np.zeros(shape),
    "row plus column": lambda rng, shape, n: crossed(np.add, partial(rng.integers, 0, 99), shape),
    "row plus column, an ulp off": lambda rng, shape, n: (
        crossed(np.add, partial(rng.integers, 8, 12), shape) + 2.0**-19 * rng.integers(0, 2, shape)
    ),
    "rank one": lambda rng, shape, n: crossed(np.multiply, partial(normal, rng), shape),
    "rank one, small integers": lambda rng, shape, n: crossed(np.multiply, partial(rng.integers, 0, 4), shape),
    "rank two": lambda rng, shape, n: (
        crossed(np.multiply, partial(normal, rng), shape) + crossed(np.multiply, partial(normal, rng), shape)
    ),
    "geometric along diagonals": lambda rng, shape, n: 0.75 ** np.add(*np.indices(shape[1:])) + np.zeros(shape),
    "powers of two": lambda rng, shape, n: 2.0 ** -rng.integers(0, 22, shape),
    "powers of two, wide": lambda rng, shape, n: 2.0 ** -rng.integers(0, 90, shape),
    "steep": lambda rng, shape, n: np.exp(6 * rng.standard_normal(shape)),
    "permutations": lambda rng, shape, n: circulants(rng, shape, 1) + 0.5 * circulants(rng, shape, 1),
    "a mask that is best by an ulp": lambda rng, shape, n: 1 + ULP * circulants(rng, shape, n),
    "zero but for n a line": lambda rng, shape, n: normal(rng, shape) * circulants(rng, shape, n),
    "zero but for n - 1 a line": lambda rng, shape, n: normal(rng, shape) * circulants(rng, shape, n - 1),
    "zero but for n + 1 a line": lambda rng, shape, n: normal(rng, shape) * circulants(rng, shape, n + 1),
    "half zeros": lambda rng, shape, n: normal(rng, shape) * rng.integers(0, 2, shape),
    "few above zero": lambda rng, shape, n: normal(rng, shape) * (rng.random(shape) < 0.05),
    "int8": lambda rng, shape, n: int8(rng, shape),
    "smallest": lambda rng, shape, n: 2.0**-149 * rng.integers(0, 4, shape),
    "subnormal": lambda rng, shape, n: 2.0**-149 * rng.integers(0, 2**23, shape),
    "normal and subnormal": lambda rng, shape, n: 2.0**-128 * normal(rng, shape),
    "5e37": lambda rng, shape, n: 5e37 * rng.random(shape),
    "3e38": lambda rng, shape, n: 3e38 * rng.random(shape),
    "3e38, ties": lambda rng, shape, n: 1e38 * rng.integers(0, 4, shape),
    "some huge blocks": lambda rng, shape, n: (
        normal(rng, shape) * np.where(rng.random((shape[0], 1, 1)) < 0.2, 1e37, 1)
    ),
}  # fmt: skip


def check(n: int, m: int, kind: str, count: int = 40) -> None:
    """The solver's masks and proofs, in blocks and in place, on `count` blocks of one kind."""
    rng = np.random.default_rng((n, m))
    scores = np.float32(ADVERSARIES[kind](rng, (count, m, m), n))
    expected = tmask.get_solver("augmenting-paths").solve(scores, n)
    answer = tmask.get_solver("midpoint").solve(scores, n)
    assert is_regular(answer.masks, n).all()
    assert_same_objectives(scores, answer.masks, expected.masks, n)
    exact = on_grid(scores)
    assert proves_optimal(scores[exact], answer.masks[exact], answer.prices[exact]).all()
    if m == 4:  # a closed form
        matrix = np.ascontiguousarray(scores.transpose(1, 0, 2)).reshape(m, -1)
        solution = tmask.solve(matrix, f"{n}:{m}", "midpoint")
        masks = solution.mask.reshape(m, -1, m).transpose(1, 0, 2)
        assert_same_objectives(scores, masks, expected.masks, n)


@pytest.mark.parametrize("kind", sorted(ADVERSARIES))
@pytest.mark.parametrize(("n", "m"), FEW)
def test_adversarial_blocks(n, m, kind):
    check(n, m, kind)


@pytest.mark.parametrize("kind", sorted(ADVERSARIES))
@pytest.mark.parametrize("n", [1, 2, 3])
def test_adversarial_blocks_in_closed_form(n, kind):
    rng = np.random.default_rng(n)
    scores = np.float32(ADVERSARIES[kind](rng, (200, 4, 4), n))
    solution = tmask.solve(np.ascontiguousarray(scores.transpose(1, 0, 2)).reshape(4, -1), f"{n}:4", "midpoint")
    masks = solution.mask.reshape(4, -1, 4).transpose(1, 0, 2)
    expected = tmask.get_solver("augmenting-paths").solve(scores, n).masks
    assert is_regular(masks, n).all()
    assert_same_objectives(scores, masks, expected, n)


@pytest.mark.nightly
@pytest.mark.parametrize("m", range(2, 33))
def test_every_pattern_of_a_side(m, tmp_path):
    """A process a side: some hundred compiled patterns would fill the memory of one, and the user's cache."""
    code = (
        "from tests.solvers.test_adversarial import ADVERSARIES, check\n"
        f"done = [check(n, {m}, kind) for n in range(1, {m}) for kind in ADVERSARIES]\n"
        "print(len(done))"
    )
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "solvers")))
    environment = os.environ | {"PYTHONPATH": paths, "NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == (m - 1) * len(ADVERSARIES)

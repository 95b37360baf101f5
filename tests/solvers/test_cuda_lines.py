"""The straight-line functions of the CUDA kernels, typed and compiled by numba, give what their Python code gives.

The simulated warp computes with numpy's types, a GPU with those that numba infers. numba's rules are the same on a CPU.
"""

from __future__ import annotations

from types import SimpleNamespace

import numba
import numpy as np
import pytest
import torch

from tests.strategies import KINDS, make_blocks
from tests.warp_simulator import SimulatedCuda
from tmask_solvers.cuda_kernels.code.closed import make_formula
from tmask_solvers.cuda_kernels.code.kernels import magnitude_of
from tmask_solvers.cuda_kernels.code.lines import lanes_per_tile, make_lines
from tmask_solvers.cuda_kernels.code.places import make_places, numbers_of

N, M = 3, 6
CORNER = np.uint64(0), np.uint64(4), np.uint64(1)  # of a tile that lies alone in memory, row by row


class CompiledCuda:
    """Device functions, compiled for the CPU."""

    libdevice = SimpleNamespace(fmul_rn=numba.njit(lambda x, y: x * y), dmul_rn=numba.njit(lambda x, y: x * y))

    def jit(self, code, **options):
        return numba.njit(code, error_model="numpy")


@pytest.fixture(scope="module")
def both():
    return make_lines(CompiledCuda(), N, M, np.float32), make_lines(SimulatedCuda(), N, M, np.float32)


def assert_same(compiled, plain) -> None:
    """Equal numbers, and equal kinds of numbers: numba gives Python's float for float64 alone."""
    for x, y in zip(np.ravel(compiled), np.ravel(plain), strict=True):
        assert x == y
        assert np.asarray(x).dtype.kind == np.asarray(y).dtype.kind


def line_of(kind: str) -> tuple[np.float32, ...]:
    return tuple(make_blocks(kind, 1, M, seed=2)[0, 0])


@pytest.mark.parametrize("kind", ["normal", "ties", "one ulp apart", "subnormal"])
def test_order_statistics_and_counts(both, kind):
    line, prices = line_of(kind), make_blocks("normal", 1, M)[0, 1]
    (a, b), (c, d) = (lines.pair(line, prices, 0) for lines in both)
    assert (a, b) == (c, d)
    ordered = sorted((x - price for x, price in zip(line, prices, strict=True)), reverse=True)
    assert (a, b) == (ordered[N - 1], ordered[N])
    for name in ("total", "extremes"):
        assert_same(*(getattr(lines, name)(line) for lines in both))
    assert_same(*(lines.above(line, np.float32(0.25), prices, 0) for lines in both))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_integers_on_the_grid(both, kind):
    line = line_of(kind)
    exponent = 46 - int(np.frexp(max(line))[1])
    s, t = 2.0 ** (exponent >> 1), 2.0 ** (exponent - (exponent >> 1))
    found = []
    for lines in both:
        q, v = np.zeros(M * (M + 1), np.int64), np.arange(M, dtype=np.int64) * 2**40
        rounded = lines.quantise(line, q, 0, s, t)
        row = lines.keys(q, M + 1, np.concatenate([v, v]), M, 4)
        least = lines.largest(row)
        found.append((bool(rounded), q.tolist(), [int(x) for x in row], int(least), int(lines.word(row, least))))
    assert found[0] == found[1]
    assert found[0][4].bit_count() == N


@pytest.mark.parametrize("many", [False, True])
def test_every_entry_of_every_tile_is_found(many):
    """In one matrix, and in many of any shapes and strides, also where one lies before the first."""
    memory, m = torch.arange(4000, dtype=torch.float32), 3
    shapes = [(2, 3, 5, 7), (1, 1, 1, 1), (1, 2, 3, 1)] if many else [(2, 3, 5, 7)]
    # Weights as they come, from place 2000 on and from 0; masks transposed.
    weights = [memory[2000 * (k == 0) + 20 * k :][: np.prod(s) * 9].view(*s, m, m) for k, s in enumerate(shapes)]
    masks = [weight.transpose(4, 5) for weight in weights]
    origins, counts = (weights[0], masks[0]), [int(np.prod(s)) for s in shapes]
    firsts = [sum(counts[:k]) for k in range(len(counts))]
    rows = [numbers_of(w, k, origins, first, 0) for w, k, first in zip(weights, masks, firsts, strict=True)]
    where = np.array(rows) if many else tuple(rows[0])
    for cuda in (CompiledCuda(), SimulatedCuda()):
        places = make_places(cuda, many)
        for place in range(sum(counts)):
            r = int(places.matrix_of(where, place))
            assert firsts[r] <= place < firsts[r] + counts[r]
            tile = np.unravel_index(place - firsts[r], shapes[r])
            corner = places.corner(where, r, place - firsts[r])
            for at, apart, beside, tensor, origin in _corners(corner, weights, masks, r):
                steps = np.arange(m, dtype=np.uint64)
                found = np.uint64(at) + steps[:, None] * np.uint64(apart) + steps * np.uint64(beside)
                np.testing.assert_array_equal(found.astype(np.int64), (tensor[tile] - origin).numpy())


def _corners(found, weights, masks, r):
    """Place and strides in the weight and in the mask, that tensor, and what stands at its origin's first entry."""
    yield *found[:3], weights[r], float(weights[0].flatten()[0])
    yield *found[3:], masks[r], float(masks[0].flatten()[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_magnitudes_are_exact(dtype):
    values = torch.tensor([-1.5, 2.0**-24, -0.0, 3e4, -torch.inf], dtype=dtype)
    entries = (values.view(torch.int16) if dtype == torch.bfloat16 else values).numpy()
    # float16 is known to numba on a GPU only.
    code = magnitude_of(dtype)
    compiled = code if dtype == torch.float16 else numba.njit(code)
    for entry, value in zip(entries, values.double().abs().tolist(), strict=True):
        assert compiled(entry) == code(entry) == value
        assert type(code(entry)) is (np.float64 if dtype == torch.float64 else np.float32)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_closed_forms(n):
    compiled, plain = make_formula(CompiledCuda(), n), make_formula(SimulatedCuda(), n)
    widen = magnitude_of(torch.float32)
    quick = numba.njit(widen)
    for kind in sorted(KINDS):
        for block in make_blocks(kind, 3, 4, seed=n):
            one, two = compiled(block.ravel(), *CORNER, quick), plain(block.ravel(), *CORNER, widen)
            assert [int(x) for x in one] == [int(x) for x in two], kind
            rows = np.array([[int(word) >> 8 * j & 1 for j in range(4)] for word in one[:4]])
            assert (rows.sum(0) == n).all()
            assert (rows.sum(1) == n).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_closed_forms_do_not_trust_narrow_leads(n):
    formula = make_formula(SimulatedCuda(), n)
    steps = np.random.default_rng(0).integers(0, 50, (20, 4, 4))
    close = (np.float32(0.1).view(np.int32) + steps.astype(np.int32)).view(np.float32)
    proven = [formula(tile.ravel(), *CORNER, abs)[4] for tile in close]
    assert not any(proven)
    apart = make_blocks("normal", 20, 4)
    assert all(formula(tile.ravel(), *CORNER, abs)[4] for tile in apart)


@pytest.mark.parametrize(("m", "lanes"), [(2, 2), (3, 4), (4, 4), (5, 8), (8, 8), (9, 16), (17, 32), (32, 32)])
def test_a_warp_holds_whole_tiles(m, lanes):
    assert lanes_per_tile(m) == lanes

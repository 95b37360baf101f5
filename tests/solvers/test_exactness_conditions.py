"""The conditions of docs: exactness, one by one; `tests/nightly/test_mutants.py` breaks them and sees tests fail."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from importlib import import_module
from pkgutil import walk_packages

import numba
import numpy as np
import pytest
from numba.core.registry import CPUDispatcher

import tmask
import tmask_solvers
from tests.grid import assert_same_objectives
from tests.strategies import make_blocks
from tmask_solvers.cpu_kernels.compiling import kernel
from tmask_solvers.cpu_kernels.midpoint import bits, lanes
from tmask_solvers.cpu_kernels.midpoint.fallback import fall_back
from tmask_solvers.cpu_kernels.midpoint.room import make_room
from tmask_solvers.cpu_kernels.midpoint.window import solve_window
from tmask_solvers.cpu_kernels.tiles import make_window

UNIT = Fraction(2) ** -1074  # every float64 is a multiple


@numba.njit
def row_of_lanes(weight, v, u, kept, counts, i, ns, ms):
    lanes.row_step(weight, v, u, kept, counts, i, ns, ms)


@numba.njit
def all_kernels(weight, u, v, target, momentum, kept, counts, score, ns, ms):
    bits.shorten(score, 0, 1.0, score, score, 8, 255)
    above = bits.compare(score, 0, score, 8, bits.least(score, 0, 255, bits.least_left(score, 0, score, 8, 255, 1.0)))
    lanes.column_step(weight, u, v, target, momentum, 0, ns, ms)
    lanes.row_step(weight, v, u, kept, counts, 0, ns, ms)
    return lanes.balanced(weight, counts, ns, ms) + above


@kernel
def fall_back_from_python(window, n, m, paths):
    return fall_back(window, 0, 0, n, m, paths)


def kept_in_row(row: list[float], v: list[float], n: int) -> list[int]:
    """What a half-step keeps of one row at these prices, in float32."""
    m = len(row)
    room = make_room(n, m, np.float32)
    weight, prices = room.lanes.weight.reshape(-1, 16), room.lanes.v.reshape(-1, 16)
    weight[:m], prices[:m] = np.float32(row)[:, None], np.float32(v)[:, None]
    lanes = room.lanes
    row_of_lanes(lanes.weight, lanes.v, lanes.u, lanes.kept, lanes.counts, 0, (0,) * n, (0,) * m)
    return [int(byte) for byte in lanes.kept[:1].view(np.uint8)[:m]]


@pytest.mark.parametrize(
    ("row", "v", "kept"),
    [
        ([3, 2, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]),
        ([3, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]),
        ([1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]),
        # Different numbers that one rounding makes equal: 1 + 2^-23 and 1, less 2^10.
        ([9, 1 + 2.0**-23, 1, 0], [2.0**10] * 4, [1, 0, 0, 0]),
        ([np.nextafter(np.float32(1), np.float32(0)), 1, 0, 0], [0] * 4, [1, 1, 0, 0]),
        # Subnormal differences are differences.
        ([2.0**-126 + 2.0**-149, 2.0**-126, 0, 0], [2.0**-126] * 4, [1, 1, 0, 0]),
        ([3 * 2.0**-149, 2.0**-148, 2.0**-149, 0], [2.0**-149] * 4, [1, 1, 0, 0]),
    ],
)
def test_only_what_is_strictly_larger_is_kept(row, v, kept):
    """Condition: strict comparison of differences rounded once."""
    assert kept_in_row(row, v, 2) == kept


@pytest.mark.parametrize("wild", [np.nan, np.inf, -np.inf])
def test_a_price_that_is_not_finite_never_balances(wild):
    """Condition: finite prices. A column of them is kept by no row, or by all."""
    counts = np.zeros(4, int)
    for row in np.random.default_rng(0).random((4, 4)):
        counts += kept_in_row(list(row), [0.5, wild, 0.25, 0.75], 2)
    assert counts[1] in (0, 4)


def regular_masks(n: int) -> np.ndarray:
    rows = [row for row in itertools.product((0, 1), repeat=4) if sum(row) == n]
    return np.array([np.ravel(r) for r in itertools.product(rows, repeat=4) if (np.sum(r, 0) == n).all()], object)


WIDE = {
    "ties": lambda rng, shape: rng.integers(0, 3, shape),
    "ties, the last bits differ": lambda rng, shape: rng.integers(1, 4, shape) + 2.0**-50 * rng.integers(0, 3, shape),
    "ties, closer than what parts them": lambda rng, shape: 1 + 2.0**-40 * rng.integers(0, 3, shape),
    "an ulp apart": lambda rng, shape: 1 + 2.0**-52 * rng.integers(0, 3, shape),
    "ties of two sizes": lambda rng, shape: rng.integers(0, 2, shape) + 2.0**-49 * rng.integers(0, 3, shape),
    "ties of far sizes": lambda rng, shape: rng.choice([0, 1, 2.0**-60, 2.0**-61], shape),
    "all of float64": lambda rng, shape: rng.choice([2.0**1000, 2.0**-1000, 2.0**-999, 0, 1], shape),
    "smallest": lambda rng, shape: 2.0**-1074 * rng.integers(0, 5, shape),
    "huge": lambda rng, shape: 2.0**1000 * rng.integers(0, 5, shape),
    "normal": lambda rng, shape: np.abs(rng.standard_normal(shape)),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(WIDE))
def test_what_may_be_lost_is_stated(kind):
    """Conditions: what ties is solved on the true scores, on a grid that holds them; else the slack says so."""
    n, m = 2, 4
    masks = regular_masks(n)
    room, nothing = make_room(n, m, np.float64), np.empty((0, m))
    blocks = np.float64(WIDE[kind](np.random.default_rng(0), (150, m, m)))
    for block in blocks:
        mask = np.empty((m, m), np.bool_)
        slack = solve_window(make_window(block, mask), (0,) * n, (0,) * m, room, nothing, nothing)
        units = np.array([int(Fraction(x) / UNIT) for x in block.ravel()], object)
        assert list(mask.sum(0)) == list(mask.sum(1)) == [n] * m
        lost = (masks @ units).max() - (mask.ravel().astype(int) @ units)
        assert lost * UNIT <= Fraction(slack)
        assert slack <= n * m * 2.0**-45 * block.max()
        if kind in ("ties", "ties, closer than what parts them", "smallest", "huge"):  # on the grid
            assert slack == 0


@pytest.mark.parametrize("start", [0.0, np.nan, np.inf, -np.inf, 1e300, -1e300, 0.3])
def test_the_fallback_starts_from_anything(start):
    """Condition: finite prices; those of a lane that overflowed must not reach the integers."""
    n, m = 4, 8
    scores = make_blocks("normal", 5, m)
    expected = tmask.get_solver("augmenting-paths").solve(scores, n).masks
    for block, best in zip(scores, expected, strict=True):
        room = make_room(n, m, np.float32)
        mask = np.empty((m, m), np.bool_)
        room.paths.start[:] = 0.1
        room.paths.start[2:4] = start
        assert fall_back_from_python(make_window(block, mask), n, m, room.paths) == 0
        np.testing.assert_array_equal(mask, best)


def solve_subnormals(threads: int = 1) -> None:
    """4:8 and, in closed form, 2:4."""
    for pattern, n, m in (("4:8", 4, 8), ("2:4", 2, 4)):
        whole = np.random.default_rng(0).integers(0, 2**20, (200, m, m)).astype(np.float32)  # out of reach of a flush
        scores = whole * np.float32(2.0**-149)
        matrix = np.ascontiguousarray(scores.transpose(1, 0, 2)).reshape(m, -1)
        mask = tmask.solve(matrix, pattern, "midpoint").mask.reshape(m, -1, m).transpose(1, 0, 2)
        assert_same_objectives(whole, mask, tmask.get_solver("augmenting-paths").solve(whole, n).masks, n)


def test_subnormals_are_numbers():
    """Condition: no flush to zero, in this thread or in others."""
    solve_subnormals()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(solve_subnormals).result()


def test_a_process_that_asks_for_zeros_gets_them():
    """The test above can fail: this is how, and what it means."""
    torch = pytest.importorskip("torch")
    scores = np.float32(2.0**-149) * np.random.default_rng(0).integers(0, 2**20, (8, 1600)).astype(np.float32)
    right = tmask.solve(scores, "4:8", "midpoint")
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush")
    try:
        flushed = tmask.solve(scores, "4:8", "midpoint")
    finally:
        torch.set_flush_denormal(False)
    assert scores[flushed.mask].sum(dtype=float) < scores[right.mask].sum(dtype=float)
    np.testing.assert_array_equal(tmask.solve(scores, "4:8", "midpoint").mask, right.mask)


@pytest.mark.parametrize("real", [numba.float32, numba.float64])
def test_no_instruction_may_be_fused_or_reordered(real):
    """Condition: one rounding an operation. Neither LLVM's flags nor the machine code allow for less."""
    reals, words, wide = real[::1], numba.int32[::1], numba.float64[::1]
    ns, ms = numba.types.UniTuple(numba.int64, 2), numba.types.UniTuple(numba.int64, 4)
    signature = (reals, reals, reals, reals, reals, words, words, wide, ns, ms)
    all_kernels.compile(signature)
    code = all_kernels.inspect_llvm(signature)
    lines = [line for line in code.splitlines() if " fsub " in line or " fcmp " in line or " fmul " in line]
    assert len(lines) > 20
    for flag in (" fast ", " contract ", " reassoc ", " nnan ", " ninf ", " nsz ", " afn ", " arcp "):
        assert not [line for line in lines if flag in line]
    assert '"denormal-fp-math"' not in code
    assembly = all_kernels.inspect_asm(signature)
    assert "subp" in assembly or "fsub" in assembly
    for mnemonic in ("fmadd", "fmsub", "fmla", "fmls", "ldmxcsr"):
        assert mnemonic not in assembly


def test_no_kernel_is_compiled_with_fast_mathematics():
    kernels = []
    for module in walk_packages(tmask_solvers.__path__, "tmask_solvers."):
        names = vars(import_module(module.name))
        kernels += [value for value in names.values() if isinstance(value, CPUDispatcher)]
    assert len(kernels) > 20
    assert not any(kernel.targetoptions.get("fastmath") for kernel in kernels)

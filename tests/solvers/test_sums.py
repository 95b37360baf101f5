"""The sums of kept and of all magnitudes: their values, and that nothing that is not finite escapes them."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import KINDS, make_blocks
from tmask_solvers.cpu_kernels.examining import examine_window
from tmask_solvers.cpu_kernels.sums import ROOM

DTYPES = [np.float32, np.float64]


def run(weight: np.ndarray, mask: np.ndarray, room: np.ndarray | None = None) -> tuple[float, float]:
    """Of (rows, cols) arrays whose rows are contiguous."""
    (rows, cols), stride, mask_stride = weight.shape, weight.strides[0] // weight.itemsize, mask.strides[0]
    flat = np.lib.stride_tricks.as_strided(weight, ((rows - 1) * stride + cols,), (weight.itemsize,))
    flat_mask = np.lib.stride_tricks.as_strided(mask, ((rows - 1) * mask_stride + cols,), (1,))
    scratch = np.full(ROOM, np.nan) if room is None else room
    kept, total, _ = examine_window(  # at m = 1, since any shape has whole tiles then
        flat, stride, flat_mask.view(np.uint8), mask_stride, rows, cols, (0,), (0,), scratch
    )
    return kept, total


@given(
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(DTYPES),
    st.integers(1, 5),
    st.integers(1, 200),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.integers(0, 2**32 - 1),
)
def test_they_agree_with_exact_sums(kind, dtype, rows, cols, margins, seed):
    """Of a window of larger arrays, whatever surrounds it."""
    rng = np.random.default_rng(seed)
    whole = np.full((rows, cols + margins[0]), np.nan, dtype)
    values = make_blocks(kind, -(-rows * cols // 16), 4, seed).astype(dtype).ravel()[: rows * cols]
    whole[:, :cols] = (values * rng.choice([-1, 1], rows * cols)).reshape(rows, cols)
    weight, mask = whole[:, :cols], (rng.random((rows, cols + margins[1])) < 0.5)[:, :cols]
    kept, total = run(weight, mask)
    for found, entries in ((kept, weight[mask]), (total, weight.ravel())):
        exact = sum(Fraction(abs(float(x))) for x in entries)
        assert abs(Fraction(found) - exact) <= exact * (rows * (cols // 64 + cols % 64) + 20) * Fraction(2) ** -53


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_entry_that_is_not_finite_shows_anywhere(value, dtype):
    """Kept or pruned, in a whole step of 64 or in the rest of a row."""
    rows, cols = 3, 149
    for position in range(rows * cols):
        weight = np.ones((rows, cols), dtype)
        weight.flat[position] = value
        for mask in (np.zeros(weight.shape, bool), np.ones(weight.shape, bool)):
            assert not math.isfinite(run(weight, mask)[1])


def test_infinities_of_both_signs_do_not_cancel():
    weight = np.zeros((2, 128), np.float32)
    weight[0, 3], weight[1, 3], weight[0, 64], weight[1, 70] = np.inf, -np.inf, -np.inf, np.inf
    assert run(weight, np.zeros(weight.shape, bool))[1] == np.inf


def test_finite_float32_never_overflow():
    weight = np.full((64, 131), np.finfo(np.float32).max)
    assert math.isfinite(run(weight, np.ones(weight.shape, bool))[1])


def test_what_is_pruned_does_not_count():
    weight = np.full((3, 80), np.inf, np.float32)
    weight[:, ::2] = 0.5
    mask = np.zeros(weight.shape, bool)
    mask[:, ::2] = True
    assert run(weight, mask) == (60.0, np.inf)


def test_any_mask_byte_but_zero_keeps():
    weight = np.ones((1, 65), np.float32)
    mask = np.arange(65, dtype=np.uint8)[None] * 3
    assert run(weight, mask) == (64.0, 65.0)


def test_no_more_scratch_than_stated_is_used():
    room = np.full(ROOM + 8, 7.0)
    run(np.ones((2, 100), np.float32), np.ones((2, 100), bool), room)
    assert (room[ROOM:] == 7).all()

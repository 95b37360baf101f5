"""The closed forms of 4-by-4 blocks against all masks, in integers that hold every float32 exactly."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import KINDS, make_blocks
from tmask_solvers.cpu_kernels.closed.solve import solve_closed
from tmask_solvers.cpu_kernels.sums import ROOM

NS = (1, 2, 3)
UNIT = Fraction(2) ** -149  # every float32 is a multiple
CLEARED = 9  # neither kept nor pruned


def all_masks(n: int) -> np.ndarray:
    """(90 or 24, 16) objects: every mask with n in each row and column."""
    rows = [row for row in itertools.product((0, 1), repeat=4) if sum(row) == n]
    masks = [np.ravel(mask) for mask in itertools.product(rows, repeat=4) if (np.sum(mask, 0) == n).all()]
    return np.array(masks, object)


MASKS = {n: all_masks(n) for n in NS}


def to_blocks(matrix: np.ndarray) -> np.ndarray:
    """(rows, cols) as (B, 16), block row after block row."""
    rows, cols = matrix.shape
    return matrix.reshape(rows // 4, 4, cols // 4, 4).swapaxes(1, 2).reshape(-1, 16)


def to_matrix(blocks: np.ndarray, cols: int) -> np.ndarray:
    """(B, 4, 4) as (rows, cols)."""
    return np.ascontiguousarray(blocks.reshape(-1, cols // 4, 4, 4).swapaxes(1, 2).reshape(-1, cols))


def units(weight: np.ndarray) -> np.ndarray:
    """Objects: |weight| as integer multiples of 2^-149."""
    return np.array([int(abs(Fraction(float(x))) / UNIT) for x in weight.ravel()], object).reshape(weight.shape)


def solve(weight: np.ndarray, n: int, stride: int = 0, mask_stride: int = 0, before: int = 0) -> tuple:
    """Masks (rows, cols) and slack; the matrix stands `before` entries into larger arrays with these strides."""
    rows, cols = weight.shape
    stride, mask_stride = stride or cols, mask_stride or cols
    source = np.full(before + rows * stride + 5, np.nan, np.float32)
    target = np.full(before + rows * mask_stride + 5, CLEARED, np.uint8)
    inside = source[before : before + rows * stride].reshape(rows, stride)[:, :cols]
    inside[:] = weight
    slack, *_ = solve_closed(
        source[before:], stride, target[before:], mask_stride, rows, cols, (0,) * n, np.empty(ROOM)
    )
    window = target[before : before + rows * mask_stride].reshape(rows, mask_stride)
    masks = window[:, :cols].copy()
    window[:, :cols] = CLEARED
    assert (target == CLEARED).all(), "a byte beside the matrix was touched"
    return masks, slack


def assert_regular(masks: np.ndarray, n: int) -> None:
    blocks = to_blocks(masks).reshape(-1, 4, 4)
    assert set(np.unique(blocks)) == {0, 1}
    assert (blocks.sum(1) == n).all()
    assert (blocks.sum(2) == n).all()


def shortfall(weight: np.ndarray, masks: np.ndarray, n: int) -> int:
    """Units that the masks fall short of the optimum, over all blocks."""
    scores = to_blocks(units(weight))
    return int(((scores @ MASKS[n].T).max(1) - (scores * to_blocks(masks)).sum(1)).sum())


def assert_optimal(weight: np.ndarray, n: int, **layout: int) -> None:
    masks, slack = solve(weight, n, **layout)
    assert_regular(masks, n)
    assert slack == 0
    assert shortfall(weight, masks, n) == 0


def among_plain_blocks(block: np.ndarray, position: int = 0) -> np.ndarray:
    """(4, 64), 16 blocks: were others than this one in doubt, it would be done again on their account."""
    weight = to_matrix(make_blocks("normal", 16, 4), 64)
    weight[:, 4 * position : 4 * position + 4] = block
    return weight


entries = {
    "any": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "small integers": st.integers(-3, 3).map(float),
    "signed zeros": st.sampled_from([0.0, -0.0, 1.0, -1.0]),
    "one ulp apart": st.integers(0, 3).map(lambda k: 1 + k * 2.0**-23),
    "near ties below one": st.integers(0, 7).map(lambda k: (2**24 - 1 - k) * 2.0**-24),
    "near ties of two sizes": st.tuples(st.integers(0, 3), st.sampled_from([1.0, 2.0**-12, 2.0**-20])).map(
        lambda t: (1 + t[0] * 2.0**-23) * t[1]
    ),
    "subnormal": st.integers(-9, 9).map(lambda k: k * 2.0**-149),
    "least normal": st.integers(-5, 5).map(lambda k: (2**23 + k) * 2.0**-149),
    "largest": st.integers(0, 5).map(lambda k: (2**24 - 1 - k) * 2.0**104),
    "geometric, 25 binades": st.integers(0, 24).map(lambda k: 2.0**k),
}
exact_blocks = st.sampled_from(sorted(set(entries) - {"any"})).flatmap(
    lambda kind: st.lists(entries[kind], min_size=16, max_size=16)
)


@given(exact_blocks, st.integers(-100, 60), st.sampled_from(NS), st.integers(0, 15))
@settings(max_examples=400)
def test_a_drawn_block_is_exactly_optimal_at_any_place(values, exponent, n, position):
    """Powers of two change nothing unless something is flushed to zero, or overflows."""
    block = np.array(values, np.float32).reshape(4, 4)
    with np.errstate(over="ignore"):
        scaled = np.ldexp(block, exponent)
    if not np.array_equal(np.ldexp(scaled, -exponent), block):
        scaled = block
    assert_optimal(among_plain_blocks(scaled, position), n)


@given(st.lists(entries["any"], min_size=16, max_size=16), st.sampled_from(NS))
@settings(max_examples=200)
def test_the_bound_holds_for_any_block(values, n):
    """Where float64 rounds, too, the bound covers what is lost; where it does not, nothing is lost."""
    weight = np.tile(np.array(values, np.float32).reshape(4, 4), 16)
    masks, slack = solve(weight, n)
    assert_regular(masks, n)
    assert shortfall(weight, masks, n) * UNIT <= Fraction(slack) <= 16 * 16 * Fraction(2) ** (128 - 49)
    nonzero = np.abs(weight[weight != 0]).astype(float)
    if nonzero.size and nonzero.max() < 2.0**25 * nonzero.min():
        assert slack == 0


@pytest.mark.parametrize("n", NS)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_block_is_exactly_optimal(kind, n):
    weight = to_matrix(make_blocks(kind, 17 * 20, 4, seed=n), 68)
    signs = np.random.default_rng(n).choice(np.float32([-1, 1]), weight.shape)
    assert_optimal(weight * signs, n)


@pytest.mark.parametrize("n", NS)
def test_ties_that_round_are_told_apart_in_float64(n):
    """Entries an ulp or two apart, whose sums float32 rounds: no margin, or a fused or reordered sum, loses here."""
    rng = np.random.default_rng(n)
    base = 2.0 ** rng.integers(0, 3, (640, 4, 4)) + rng.integers(0, 3, (640, 4, 4)) * 2.0**-22
    assert_optimal(to_matrix(base.astype(np.float32), 64), n)


@given(
    st.lists(st.integers(0, 3), min_size=4, max_size=4), st.permutations(range(4)), st.booleans(), st.sampled_from(NS)
)
@settings(max_examples=300)
def test_a_tie_that_rounds_in_one_place_of_a_clear_block(ulps, columns, flip, n):
    """The columns of the upper and the lower rows are clear, and so is the order of one of these halves."""
    block = np.full((4, 4), 20 if n == 3 else 0, np.float32)
    block[:2, :2] = 1 + np.reshape(ulps, (2, 2)) * 2.0**-23
    block[2:, 2:] = [[5, 1], [2, 7]]
    block = block[:, columns][::-1] if flip else block[:, columns]
    assert_optimal(among_plain_blocks(block), n)


@pytest.mark.parametrize("n", NS)
def test_a_sum_on_the_brink_of_overflow(n):
    """In float32 the block's sum is finite, but the value of the wrong pairing of its rows rounds to infinity."""
    units = [[1, 4, 1, 7], [2**27 - 8, 2**27, 0, 0], [2**27 - 8, 0, 2**27 - 32, 0], [4, 6, 1, 4]]
    assert_optimal(among_plain_blocks(np.array(units, np.float32) * np.float32(2.0**99)), n)


@pytest.mark.parametrize("n", NS)
def test_a_tie_beyond_float64_is_reported(n):
    """2^-60 decides between two masks, but float64 loses it beside 1: it counts as slack, not as exactly optimal."""
    block = np.zeros((4, 4), np.float32)
    block[0, 0] = 1
    block[1:, 1:] = 2.0**-60
    weight = np.tile(block, 16)
    masks, slack = solve(weight, n)
    assert 0 < slack < 16 * 2.0**-48
    assert shortfall(weight, masks, n) * UNIT <= Fraction(slack)


@given(st.integers(16, 50), st.integers(1, 3), st.sampled_from(NS), st.tuples(*[st.integers(0, 9)] * 3), st.data())
@settings(max_examples=60)
def test_windows_of_larger_arrays(num_blocks, block_rows, n, margins, data):
    """Any number of blocks a row from 16 on, any strides and alignment; what surrounds the window stays as it is."""
    kind = data.draw(st.sampled_from(["normal", "ties", "half zeros", "one ulp apart"]))
    cols = 4 * num_blocks
    weight = to_matrix(make_blocks(kind, num_blocks * block_rows, 4, data.draw(st.integers(0, 99))), cols)
    assert_optimal(weight, n, stride=cols + margins[0], mask_stride=cols + margins[1], before=margins[2])


@given(st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(1, 3), st.sampled_from(NS), st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_masks_are_valid_even_if_entries_are_not_finite(value, count, n, seed):
    rng = np.random.default_rng(seed)
    weight = to_matrix(make_blocks("normal", 16, 4, seed), 64)
    weight[rng.integers(0, 4, count), rng.integers(0, 64, count)] = value
    assert_regular(solve(weight, n)[0], n)
    assert_regular(solve(np.full((4, 64), value, np.float32), n)[0], n)

"""The greedy methods beyond the contract: the proven factor, the repair, the local optimum, the order of ties."""

import numpy as np
import pytest
from hypothesis import given

import tmask
from tests.strategies import KINDS, blocks, make_blocks
from tmask.judging.certificate import objectives
from tmask.judging.duals import is_regular
from tmask_solvers.cpu_kernels.sort import order_entries, sort_scratch


def masks(name, scores, n, **settings):
    return tmask.get_solver(name, **settings).solve(scores, n).masks


def pruned(scores, kept):
    return np.where(kept, 0, scores).sum((1, 2), dtype=np.float64)


@given(blocks(sides=(2, 3, 4, 5, 8)))
def test_greedy_prune_prunes_less_than_twice_the_least(problem):
    scores, n = problem
    light = pruned(scores, masks("greedy-prune", scores, n))
    least = pruned(scores, masks("augmenting-paths", scores, n))
    assert (light <= 2 * least * (1 + 1e-12)).all()


@given(blocks(sides=(2, 3, 4, 5, 8)))
def test_greedy_prune_covers_every_line_and_prunes_nothing_in_vain(problem):
    scores, n = problem
    kept = masks("greedy-prune", scores, n)
    assert (kept.sum(1) <= n).all()
    assert (kept.sum(2) <= n).all()
    rows, cols = kept.sum(2) < n, kept.sum(1) < n
    # the heaviest pruned entry was needed: its row or column would be over n with it
    heaviest = np.where(kept, -1, scores).reshape(len(scores), -1).argmax(1)
    for b, place in enumerate(heaviest):
        i, j = divmod(int(place), scores.shape[1])
        if not kept[b, i, j] and (scores[b][~kept[b]] < scores[b, i, j]).sum() == (~kept[b]).sum() - 1:
            assert not (rows[b, i] and cols[b, j])


@given(blocks(sides=(2, 3, 5, 8, 12)))
def test_greedy_keep_is_maximal(problem):
    scores, n = problem
    kept = masks("greedy-keep", scores, n)
    room = (kept.sum(2) < n)[:, :, None] & (kept.sum(1) < n)[:, None, :]
    assert not (room & ~kept).any()


def test_greedy_keep_takes_the_heaviest_first():
    scores = np.array([[[9, 8, 1], [7, 2, 1], [1, 1, 1]]], np.float32)
    assert masks("greedy-keep", scores, 1)[0].tolist() == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]


@given(blocks(sides=(2, 3, 5, 8, 12)))
def test_repair_always_fills_every_line_and_loses_nothing(problem):
    scores, n = problem
    short, full = masks("greedy-keep", scores, n), masks("greedy-keep", scores, n, repair=True)
    assert is_regular(full, n).all()
    untouched = is_regular(short, n)
    np.testing.assert_array_equal(short[untouched], full[untouched])


def test_repair_is_needed_and_gains():
    scores = make_blocks("normal", 200, 8)
    short, full = masks("greedy-keep", scores, 4), masks("greedy-keep", scores, 4, repair=True)
    assert 0.2 < is_regular(short, 4).mean() < 0.8
    assert objectives(scores, full).sum() > objectives(scores, short).sum()


@given(blocks(sides=(2, 3, 4, 6)))
def test_local_search_leaves_no_swap_that_gains(problem):
    scores, n = problem
    kept = masks("local-search", scores, n)
    assert is_regular(kept, n).all()
    assert (objectives(scores, kept) >= objectives(scores, masks("greedy-keep", scores, n, repair=True))).all()
    s = scores.astype(np.float64)
    for b, i, k in np.ndindex(len(s), s.shape[1], s.shape[1]):
        mine, other = np.flatnonzero(kept[b, i] & ~kept[b, k]), np.flatnonzero(kept[b, k] & ~kept[b, i])
        gains = (s[b, i, other] - s[b, k, other])[:, None] + (s[b, k, mine] - s[b, i, mine])
        assert (gains <= 0).all()


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("side", [3, 8, 17])
def test_entries_are_sorted_with_ties_in_order(kind, dtype, side):
    block = make_blocks(kind, 1, side)[0].astype(dtype)
    order = order_entries(block, sort_scratch(side * side))
    np.testing.assert_array_equal(order, np.argsort(block.ravel(), kind="stable"))


@pytest.mark.parametrize("side", [4, 8, 16])
def test_a_negative_zero_is_a_zero(side):
    scores = make_blocks("half zeros", 5, side)
    signed = np.where(scores == 0, np.float32(-0.0), scores)
    assert np.signbit(signed).any()
    for name in ("greedy-keep", "greedy-prune", "local-search"):
        np.testing.assert_array_equal(masks(name, signed, side // 2), masks(name, scores, side // 2))

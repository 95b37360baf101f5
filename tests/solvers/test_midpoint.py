"""The midpoint iteration: its networks, its exactness argument, its fallback, and that threads change nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tmask
from tests.strategies import KINDS, blocks, make_blocks
from tmask.judging.certificate import judge
from tmask.judging.counts import count_lines
from tmask.judging.duals import is_regular, objectives, proves_optimal
from tmask_solvers.cpu_kernels import judging
from tmask_solvers.cpu_kernels.bands import bands_that_pay
from tmask_solvers.cpu_kernels.midpoint.room import make_room
from tmask_solvers.cpu_kernels.midpoint.window import solve_window
from tmask_solvers.cpu_kernels.tiles import make_window
from tmask_solvers.shared.selection import order_pair

# Few patterns, since each is compiled once.
PATTERNS = [(2, 4), (3, 5), (4, 8), (8, 16)]


@given(st.integers(2, 32), st.data())
def test_networks_find_the_two_order_statistics(m, data):
    n = data.draw(st.integers(1, m - 1))
    operations, a, b = order_pair(m, n)
    values = data.draw(st.lists(st.integers(0, 5), min_size=m, max_size=m))
    wires = dict(enumerate(values))
    for kind, out, p, q in operations:
        wires[out] = (min if kind == "min" else max)(wires[p], wires[q])
    descending = sorted(values, reverse=True)
    assert (wires[a], wires[b]) == (descending[n - 1], descending[n])


def test_networks_are_short():
    assert [len(order_pair(m, m // 2)[0]) for m in (8, 16, 32)] == [28, 92, 284]


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"wide range", "one huge"}))
def test_prices_prove_every_block(kind, n, m):
    """Subnormals would fail if they were flushed to zero, scores an ulp apart if the comparison were not strict."""
    scores = make_blocks(kind, 100, m, seed=n)
    answer = tmask.get_solver("midpoint").solve(scores, n)
    assert is_regular(answer.masks, n).all()
    assert proves_optimal(scores, answer.masks, answer.prices).all()


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("kind", ["wide range", "one huge"])
def test_wide_blocks_are_optimal_within_the_grid(kind, n, m):
    scores = make_blocks(kind, 100, m, seed=n)
    answer = tmask.get_solver("midpoint").solve(scores, n)
    judged = judge(scores, answer.masks, n, prices=answer.prices)
    largest = 2.0 ** np.frexp(scores.max((1, 2)).astype(float))[1]
    assert (judged.bound - judged.objective <= 2 * n * m * 2.0**-46 * largest).all()


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_it_agrees_with_min_cost_flow(kind, n, m):
    scores = make_blocks(kind, 60, m, seed=100 + n)
    flow = objectives(scores, tmask.get_solver("ortools-flow").solve(scores, n).masks)
    mine = objectives(scores, tmask.get_solver("midpoint").solve(scores, n).masks)
    np.testing.assert_allclose(mine, flow, rtol=2.0**-40)


@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_ordinary_blocks_hardly_need_the_fallback(n, m):
    def fallbacks(scores):
        masks, prices, room = np.empty(scores.shape, bool), np.empty((0, m)), make_room(n, m, np.float32)
        window = make_window(scores.reshape(-1, m), masks.reshape(-1, m))
        assert solve_window(window, (0,) * n, (0,) * m, room, prices, prices.astype(np.float32)) == 0
        return room.paths.tiles[0]

    scores = make_blocks("normal", 2000, m)
    assert fallbacks(scores) < 0.002 * len(scores)
    assert fallbacks(np.ones_like(scores)) == 0
    assert fallbacks(scores * np.float32(2.0**120)) == len(scores)


def test_scores_too_large_for_prices_take_the_fallback():
    scores = make_blocks("normal", 40, 8) * np.float32(2.0**120)
    answer = tmask.get_solver("midpoint").solve(scores, 4)
    assert proves_optimal(scores, answer.masks, answer.prices).all()
    same = tmask.get_solver("midpoint").solve(make_blocks("normal", 40, 8), 4)
    np.testing.assert_array_equal(answer.masks, same.masks)


def test_float64_scores_are_told_apart_below_float32():
    scores = make_blocks("normal", 50, 8).astype(np.float64) * 2.0**-30 + 1
    answer = tmask.get_solver("midpoint").solve(scores, 4)
    expected = tmask.get_solver("midpoint").solve(make_blocks("normal", 50, 8).astype(np.float64), 4)
    np.testing.assert_allclose(objectives(scores, answer.masks), objectives(scores, expected.masks), rtol=1e-15)


@pytest.mark.parametrize("threads", [2, 5, 1000])
@pytest.mark.parametrize("kind", ["normal", "ties"])
def test_threads_change_nothing(kind, threads):
    scores = make_blocks(kind, 200, 8)
    one = tmask.get_solver("midpoint").solve(scores, 4)
    many = tmask.get_solver("midpoint", threads=threads).solve(scores, 4)
    np.testing.assert_array_equal(one.masks, many.masks)


def test_small_weights_are_not_spread_over_threads():
    assert [bands_that_pay(4, size, 100) for size in (1, 199, 200, 10_000)] == [1, 1, 2, 4]


@pytest.mark.parametrize("kind", ["normal", "ties"])
def test_the_order_of_blocks_changes_nothing(kind):
    """Lanes are refilled as they end, so a block meets other neighbours in another order."""
    scores = make_blocks(kind, 300, 8)
    order = np.random.default_rng(0).permutation(len(scores))
    straight = tmask.get_solver("midpoint").solve(scores, 4)
    mixed = tmask.get_solver("midpoint").solve(scores[order], 4)
    np.testing.assert_array_equal(straight.masks[order], mixed.masks)
    np.testing.assert_array_equal(straight.prices[order], mixed.prices)


def test_threads_must_be_positive():
    with pytest.raises(tmask.InvalidProblemError, match="threads must be at least 1"):
        tmask.get_solver("midpoint", threads=0)


@given(blocks(sides=(2, 3, 4, 5, 8)), st.integers(0, 2**32 - 1), st.booleans())
def test_compiled_checks_agree_with_numpy(problem, seed, optimal):
    scores, n = problem
    rng = np.random.default_rng(seed)
    solver = tmask.get_solver("augmenting-paths" if optimal else "random-best", **({} if optimal else {"samples": 2}))
    answer = solver.solve(scores, n)
    v = answer.prices if optimal else rng.choice([0, 1, 1 + 2.0**-52, 2.0**-60], scores.shape[:2]) * scores.max()
    objective, proven = np.empty(len(scores)), np.empty(len(scores), bool)
    judging.check_prices(scores, answer.masks, v, objective, proven)
    np.testing.assert_array_equal(proven, proves_optimal(scores, answer.masks, v))
    np.testing.assert_allclose(objective, objectives(scores, answer.masks), rtol=1e-14)
    rows, cols = count_lines(answer.masks)
    np.testing.assert_array_equal(rows, answer.masks.sum(2))
    np.testing.assert_array_equal(cols, answer.masks.sum(1))


@pytest.mark.parametrize("kind", ["normal", "bf16", "ties"])
def test_a_warm_start_changes_the_work_alone(kind):
    first = make_blocks(kind, 64, 8).reshape(64, 64)
    changed = first + np.float32(1e-3) * make_blocks("normal", 64, 8, seed=9).reshape(64, 64)
    earlier = tmask.solve(first, "4:8", "midpoint", warm_start=True)
    kept = earlier.row_prices.copy()
    warm = tmask.solve(changed, "4:8", "midpoint", warm_start=earlier)
    cold = tmask.solve(changed, "4:8", "midpoint")
    assert warm.status == cold.status == "optimal"
    np.testing.assert_allclose(warm.objective, cold.objective, rtol=1e-12)
    np.testing.assert_array_equal(earlier.row_prices, kept)
    tmask.check_mask(warm.mask, "4:8")


def test_the_prices_that_were_kept_lead_to_the_same_mask():
    weight = make_blocks("normal", 400, 8).reshape(160, 160)
    first = tmask.solve(weight, "4:8", warm_start=True)
    mask, room, start = np.empty(weight.shape, bool), make_room(4, 8, np.float32), first.row_prices.reshape(-1, 8)
    solve_window(make_window(weight, mask), (0,) * 4, (0,) * 8, room, np.empty((0, 8)), start.copy())
    np.testing.assert_array_equal(mask, first.mask)


@pytest.mark.parametrize("start", [np.nan, np.inf, -1e30, 1e30])
def test_any_start_leads_to_the_optimum(start):
    weight = make_blocks("normal", 64, 8).reshape(64, 64)
    earlier = tmask.solve(weight, "4:8", "midpoint", warm_start=True)
    cold = earlier.mask.copy()
    earlier.row_prices[...] = start
    warm = tmask.solve(weight, "4:8", "midpoint", warm_start=earlier)
    assert warm.status == "optimal"
    np.testing.assert_array_equal(warm.mask, cold)


def test_a_warm_start_must_fit():
    weight = make_blocks("normal", 64, 8).reshape(64, 64)
    with pytest.raises(tmask.InvalidProblemError, match="solution without prices"):
        tmask.solve(weight, "4:8", "midpoint", warm_start=tmask.solve(weight, "4:8"))
    with pytest.raises(tmask.InvalidProblemError, match=r"of 2:8 on \(64, 64\)"):
        tmask.solve(weight, "4:8", "midpoint", warm_start=tmask.solve(weight, "2:8", warm_start=True))

"""The midpoint iteration in torch: each of its steps, and that each is needed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tmask
from tests.strategies import KINDS, blocks, make_blocks
from tmask.judging.duals import is_regular, objectives, proves_optimal

torch = pytest.importorskip("torch")

from tmask_solvers import midpoint_torch  # noqa: E402
from tmask_solvers.torch_kernels.closed import solve_closed  # noqa: E402
from tmask_solvers.torch_kernels.grid import Grid, prove, times_power_of_two  # noqa: E402
from tmask_solvers.torch_kernels.paths import balance  # noqa: E402
from tmask_solvers.torch_kernels.rounds import iterate, order_statistics  # noqa: E402

SOLVER = tmask.get_solver("midpoint-torch")
PATTERNS = [(3, 5), (4, 8), (2, 8), (8, 16)]
OFF_GRID = ("wide range", "one huge")


def blocks_last(scores):
    return torch.from_numpy(scores).permute(1, 2, 0).contiguous()


def blocks_first(stack):
    return stack.permute(2, 0, 1).contiguous().numpy()


def optima(scores, n):
    return objectives(scores, tmask.get_solver("augmenting-paths").solve(scores, n).masks)


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(OFF_GRID)))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_prices_prove_every_block(kind, n, m, dtype):
    """Subnormals would fail if they were flushed to zero, scores an ulp apart if the comparison were not strict."""
    scores = make_blocks(kind, 40 if m < 16 else 10, m, seed=n).astype(dtype)
    answer = SOLVER.solve(scores, n)
    assert is_regular(answer.masks, n).all()
    assert proves_optimal(scores, answer.masks, answer.prices).all()


@pytest.mark.parametrize("kind", ["normal", "half zeros"])
def test_the_largest_blocks(kind):
    scores = make_blocks(kind, 1, 64)
    answer = SOLVER.solve(scores, 32)
    assert is_regular(answer.masks, 32).all()
    assert proves_optimal(scores, answer.masks, answer.prices).all()


@pytest.mark.parametrize("kind", OFF_GRID)
def test_wide_blocks_are_optimal_within_the_grid(kind):
    scores = make_blocks(kind, 100, 8)
    answer = SOLVER.solve(scores, 4)
    unit = 2.0 ** (np.frexp(scores.max((1, 2)).astype(float))[1] - 46)
    assert (np.abs(optima(scores, 4) - objectives(scores, answer.masks)) <= 2 * 4 * 8 * unit).all()


@given(blocks(sides=(2, 3, 4, 5, 6, 7, 8), max_count=8))
@settings(deadline=None, max_examples=60)
def test_it_agrees_with_paths(problem):
    scores, n = problem
    mine = objectives(scores, SOLVER.solve(scores, n).masks)
    np.testing.assert_allclose(mine, optima(scores, n), rtol=2.0**-40)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8)])
def test_half_precision_is_lifted_not_rounded(dtype, n, m):
    scores = torch.from_numpy(make_blocks("normal", 50, m)).to(dtype)
    narrow, wide = SOLVER.solve_tensor(scores, n), SOLVER.solve_tensor(scores.double(), n)
    expected = objectives(scores.double().numpy(), wide.masks.numpy())
    np.testing.assert_array_equal(objectives(scores.double().numpy(), narrow.masks.numpy()), expected)


def test_float64_scores_are_told_apart_below_float32():
    scores = make_blocks("normal", 50, 8).astype(np.float64) * 2.0**-30 + 1
    np.testing.assert_allclose(objectives(scores, SOLVER.solve(scores, 4).masks), optima(scores, 4), rtol=1e-15)


@pytest.mark.parametrize("kind", ["normal", "ties"])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8)])
def test_neighbours_and_stacks_change_nothing(kind, n, m, monkeypatch):
    scores = torch.from_numpy(make_blocks(kind, 90, m))
    order = torch.from_numpy(np.random.default_rng(0).permutation(90))
    whole = SOLVER.solve_tensor(scores, n)
    monkeypatch.setattr(midpoint_torch, "_ENTRIES_ON_CPU", 7 * m * m)
    parts = SOLVER.solve_tensor(scores[order], n)
    assert torch.equal(parts.masks, whole.masks[order])
    if m != 4:
        assert torch.equal(parts.col_prices, whole.col_prices[order])
        assert torch.equal(parts.row_prices, whole.row_prices[order])


def test_row_prices_lie_between_kept_and_pruned():
    for kind in ("normal", "ties"):
        scores = torch.from_numpy(make_blocks(kind, 60, 8))
        answer = SOLVER.solve_tensor(scores, 4)
        x = scores.double() - answer.col_prices.unsqueeze(1) - answer.row_prices.unsqueeze(2)
        assert (x.masked_fill(~answer.masks, 1) >= -1e-6).all()
        assert (x.masked_fill(answer.masks, -1) <= 1e-6).all()


@given(st.integers(2, 40), st.data())
@settings(deadline=None)
def test_order_statistics_are_those_of_a_sort(m, data):
    n = data.draw(st.integers(1, m - 1))
    x = torch.tensor(data.draw(st.lists(st.integers(0, 5), min_size=2 * m, max_size=2 * m))).view(m, 2)
    a, b = order_statistics(list(x), n)
    expected = x.sort(0, descending=True).values
    assert torch.equal(a, expected[n - 1])
    assert torch.equal(b, expected[n])


def test_rounds_solve_nearly_all_ordinary_blocks_and_no_tied_one():
    for n, m in ((4, 8), (8, 16)):
        scores = make_blocks("normal", 400, m)
        rounds = iterate(blocks_last(scores), n)
        done = rounds.done.numpy()
        assert done.mean() > 0.98
        masks, v = blocks_first(rounds.masks), rounds.v.T.double().numpy()
        assert is_regular(masks[done], n).all()
        assert proves_optimal(scores[done], masks[done], v[done]).all()
    constant = iterate(torch.ones(8, 8, 3), 4)
    assert not constant.done.any()
    assert constant.tied.all()


@pytest.mark.parametrize("kind", ["ties", "half zeros", "bf16"])
def test_parted_ties_spare_most_paths(kind, monkeypatch):
    seen = []
    monkeypatch.setattr(midpoint_torch, "balance", lambda *args: seen.append(args[0].shape[2]) or balance(*args))
    scores = make_blocks(kind, 300, 8)
    assert (~iterate(blocks_last(scores), 4).done).sum() > 3 * sum(seen)
    SOLVER.solve(scores, 4)
    assert sum(seen) < 0.15 * len(scores)


@pytest.mark.parametrize("start", [0.0, 1e30, -1e30, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["normal", "ties", "constant", "subnormal", "huge", "wide range"])
@pytest.mark.parametrize(("n", "m"), [(1, 3), (2, 8), (5, 8), (8, 16)])
def test_paths_end_in_proven_masks_from_any_start(kind, n, m, start):
    grid = Grid.of(blocks_last(make_blocks(kind, 12, m)))
    masks, v = balance(grid.units, n, grid.to_units(torch.full((m, 12), start)))
    kept = blocks_first(masks)
    assert is_regular(kept, n).all()
    assert proves_optimal(blocks_first(grid.units), kept, v.T.numpy()).all()
    assert (v == v.round()).all()
    assert (v.abs() < 2.0**48).all()


def test_equal_entries_are_balanced_without_a_path(monkeypatch):
    monkeypatch.setattr("tmask_solvers.torch_kernels.paths._augment", None)
    for n, m in ((1, 3), (4, 8), (5, 12)):
        masks, _ = balance(torch.ones(m, m, 2, dtype=torch.float64), n, torch.zeros(m, 2, dtype=torch.float64))
        assert is_regular(blocks_first(masks), n).all()


@pytest.mark.parametrize("kind", ["normal", "ties", "half zeros", "subnormal"])
def test_a_proof_is_found_if_and_only_if_the_mask_is_optimal(kind):
    scores = make_blocks(kind, 40, 5)
    grid = Grid.of(blocks_last(scores))
    best = tmask.get_solver("augmenting-paths").solve(scores, 2).masks
    other = tmask.get_solver("random-best", samples=1).solve(scores, 2).masks
    optimal = objectives(scores, other) == optima(scores, 2)
    for masks, expected in ((best, np.ones(40, bool)), (other, optimal)):
        kept = torch.from_numpy(masks).permute(1, 2, 0)
        u, v, proven = prove(grid.units, kept, torch.zeros(5, 40, dtype=torch.float64))
        np.testing.assert_array_equal(proven.numpy(), expected)
        x = grid.units - v - u.unsqueeze(1)
        assert (x.masked_fill(~kept, 0) >= 0)[:, :, proven].all()
        assert (x.masked_fill(kept, 0) <= 0)[:, :, proven].all()


def test_prices_beyond_exact_sums_prove_nothing():
    units = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64).unsqueeze(2)
    kept = torch.eye(2, dtype=torch.bool).unsqueeze(2)
    small, large = (torch.full((2, 1), x, dtype=torch.float64) for x in (0.0, 2.0**53))
    assert prove(units, kept, small)[2].all()
    assert not prove(units, kept, large)[2].any()


@given(st.floats(0, 1e300, allow_subnormal=True), st.integers(-1074, 1119))
def test_powers_of_two_are_exact(x, exponent):
    product = times_power_of_two(torch.tensor(x, dtype=torch.float64), torch.tensor(exponent)).item()
    with np.errstate(over="ignore"):
        expected = np.ldexp(x, exponent)
    if expected == 0 or 2.0**-1022 <= expected < np.inf:
        assert product == pytest.approx(expected, rel=0, abs=5e-324)


def test_scores_off_the_grid_are_seen():
    on, off = np.ones((1, 2, 2)), np.array([[[1.0, 2.0**-50], [0, 0]]])
    assert Grid.of(blocks_last(np.concatenate([on, off]))).exact.tolist() == [True, False]


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_a_closed_form_is_sure_of_is_optimal(kind, dtype, n):
    scores = make_blocks(kind, 300, 4, seed=n).astype(dtype)
    masks, sure = solve_closed(blocks_last(scores), n)
    kept, sure = blocks_first(masks), sure.numpy()
    assert is_regular(kept, n).all()
    np.testing.assert_allclose(objectives(scores, kept)[sure], optima(scores, n)[sure], rtol=1e-15)
    if kind in ("normal", "bf16", "ties") or dtype == np.float64:
        assert sure.mean() > 0.99


@pytest.mark.parametrize("n", [1, 2, 3])
def test_closed_forms_are_not_sure_of_near_ties_that_round(n):
    scores = make_blocks("one ulp apart", 400, 4)
    masks, sure = solve_closed(blocks_last(scores), n)
    wrong = objectives(scores, blocks_first(masks)) < optima(scores, n)
    assert wrong.any()
    assert not sure.numpy()[wrong].any()
    answer = SOLVER.solve_tensor(torch.from_numpy(scores), n)
    np.testing.assert_array_equal(objectives(scores, answer.masks.numpy()), optima(scores, n))
    assert answer.slack == 0


def test_closed_forms_are_not_sure_of_sums_near_overflow():
    scores = make_blocks("normal", 20, 4) * np.float32(2.0**126)
    assert not solve_closed(blocks_last(scores), 2)[1].any()
    weight = scores.reshape(-1, 4)
    expected = tmask.solve(weight * np.float32(2.0**-126), "2:4").mask
    np.testing.assert_array_equal(tmask.solve(weight, "2:4", "midpoint-torch").mask, expected)


def test_a_slack_is_told_where_scores_were_rounded():
    """One large entry, and ties far below the last place of its sums: no rule, no round and no grid decides them."""
    block = np.full((1, 4, 4), 2.0**-60)
    block[0, 0, 0] = 1.0
    answer = SOLVER.solve_tensor(torch.from_numpy(block), 1)
    assert answer.slack.item() == 4 * 2.0**-45
    assert tmask.solve(block[0], "1:4", "midpoint-torch").status == "optimal"


def test_it_is_what_a_tensor_is_solved_with_by_name():
    weight = torch.from_numpy(make_blocks("normal", 60, 8).reshape(48, 80))
    mine, other = tmask.solve(weight, "4:8", "midpoint-torch"), tmask.solve(weight, "4:8")
    assert mine.solver == "midpoint-torch"
    assert mine.status == "optimal"
    assert mine.optimality_gap == 0
    assert mine.objective == pytest.approx(other.objective, rel=1e-14)

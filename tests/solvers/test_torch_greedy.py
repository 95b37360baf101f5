"""Heuristics on tensors: the same masks as on arrays, where those are computed in another way."""

import numpy as np
import pytest
from hypothesis import given, settings

import tmask
from tests.strategies import blocks, make_blocks
from tmask.blocks.pattern import Pattern
from tmask.solving.devices import solve_on_device
from tmask.solving.region_answer import make_solution
from tmask.solving.request import Request

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(problem=blocks(max_count=6))
@settings(deadline=None, max_examples=80)
def test_greedy_keep_gives_the_same_masks(repair, dtype, problem):
    scores, n = problem
    if n == scores.shape[1]:
        return
    scores = scores.astype(dtype)
    solver = tmask.get_solver("greedy-keep", repair=repair)
    tensor = solver.solve_tensor(torch.from_numpy(scores), n).masks
    np.testing.assert_array_equal(tensor.numpy(), solver.solve(scores, n).masks)


@pytest.mark.parametrize("kind", ["normal", "wide range", "one ulp apart"])
def test_repairs_weigh_trades_alike(kind):
    """In float64: float32 sums of these would tie, or be ordered otherwise."""
    scores = make_blocks(kind, 400, 8) * make_blocks("one ulp apart", 400, 8, seed=1)
    solver = tmask.get_solver("greedy-keep", repair=True)
    tensor = solver.solve_tensor(torch.from_numpy(scores), 4).masks
    np.testing.assert_array_equal(tensor.numpy(), solver.solve(scores, 4).masks)


@pytest.mark.parametrize(("repair", "status"), [(False, "underfilled"), (True, "feasible")])
def test_greedy_keep_on_a_device_is_bounded_by_the_optimum(repair, status):
    weight = torch.from_numpy(make_blocks("normal", 80, 8).reshape(64, 80))
    solver = tmask.get_solver("greedy-keep", repair=repair)
    mask, answers = solve_on_device(Request(weight, Pattern(4, 8), solver))
    mine, other = make_solution(mask, Pattern(4, 8), answers), tmask.solve(weight, "4:8", solver)
    assert torch.equal(mine.mask, other.mask)
    assert mine.status == other.status == status
    assert mine.objective == pytest.approx(other.objective, rel=1e-14)
    assert mine.dual_bound == pytest.approx(tmask.solve(weight, "4:8").objective, rel=1e-14)


def test_half_precision_scores_are_taken_as_they_are():
    scores = torch.from_numpy(make_blocks("normal", 30, 8)).to(torch.bfloat16)
    for name in ("greedy-keep", "entropic"):
        solver = tmask.get_solver(name)
        assert torch.equal(solver.solve_tensor(scores, 4).masks, solver.solve_tensor(scores.float(), 4).masks)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_entropic_gives_the_same_masks(device):
    scores = make_blocks("normal", 30, 8)
    solver = tmask.get_solver("entropic", device=device)
    tensor = solver.solve_tensor(torch.from_numpy(scores), 4).masks
    np.testing.assert_array_equal(tensor.numpy(), solver.solve(scores, 4).masks)


def test_entropic_bounds_the_memory_on_a_device(monkeypatch):
    scores = torch.from_numpy(make_blocks("normal", 7, 8))
    at_once = tmask.get_solver("entropic").solve_tensor(scores, 4).masks
    monkeypatch.setattr("tmask_solvers.entropic._ENTRIES", 3 * 64)
    assert torch.equal(tmask.get_solver("entropic").solve_tensor(scores, 4).masks, at_once)

"""`keep_zeros`: what is 0 is never kept, and the mask is the best with at most n in a line, proven."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tmask


def best_at_most(scores, n):
    """By trying every way of keeping at most n in each row, columns permitting."""
    m = len(scores)
    rows = [[c for k in range(n + 1) for c in itertools.combinations(range(m), k)] for _ in range(m)]
    best = 0.0
    for choice in itertools.product(*rows):
        counts = np.zeros(m, int)
        for columns in choice:
            counts[list(columns)] += 1
        if (counts <= n).all():
            best = max(best, sum(scores[i, list(columns)].sum() for i, columns in enumerate(choice)))
    return best


def sparse(shape, zeros, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal(shape).astype(dtype)
    weight[rng.random(shape) < zeros] = 0
    return weight


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.5, 0.7]))
def test_it_is_the_best_of_all_with_at_most_n(seed, zeros):
    weight = sparse((3, 3), zeros, seed, np.float64)
    found = tmask.solve(weight, "2:3", keep_zeros=True)
    assert found.objective == pytest.approx(best_at_most(np.abs(weight), 2))
    assert found.status is tmask.Status.OPTIMAL
    assert not found.mask[weight == 0].any()


def test_dropping_zeros_from_the_best_mask_of_exactly_n_is_not_enough():
    weight = np.array([[0, 0, 1], [1, 1, 0], [1, 1, 0]], np.float32)
    assert tmask.solve(weight, "2:3").objective == 4
    assert tmask.solve(weight, "2:3", keep_zeros=True).objective == 5


@pytest.mark.parametrize("solver", ["auto", "midpoint", "patterns", "greedy-keep", "ortools-flow", "midpoint-torch"])
@pytest.mark.parametrize("shape", [(32, 32), (10, 13), (8, 8, 3, 3)])
def test_no_zero_is_kept_by_any_solver(solver, shape):
    if solver == "midpoint-torch":
        pytest.importorskip("torch")
    if solver == "ortools-flow":
        pytest.importorskip("ortools")
    weight = sparse(shape, 0.7)
    found = tmask.solve(weight, "2:4", solver, keep_zeros=True)
    assert not found.mask[weight == 0].any()
    tmask.check_mask(found.mask, "2:4", at_most=True)
    judged = tmask.certify(weight, found.mask, "2:4", at_most=True)
    assert judged.objective == pytest.approx(found.objective)
    assert judged.dual_bound == pytest.approx(found.dual_bound)
    assert judged.feasible
    if solver != "greedy-keep":
        assert found.status is tmask.Status.OPTIMAL
        assert judged.optimal
    with pytest.raises(tmask.InvalidMaskError, match="exactly 2 allowed"):
        tmask.check_mask(found.mask, "2:4")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_tensors_of_every_dtype(dtype):
    torch = pytest.importorskip("torch")
    weight = torch.from_numpy(sparse((32, 32), 0.7)).to(getattr(torch, dtype)).requires_grad_()
    found = tmask.solve(weight, "2:4", keep_zeros=True)
    assert isinstance(found.mask, torch.Tensor)
    assert not found.mask.requires_grad
    assert not found.mask[weight == 0].any()
    assert found.status is tmask.Status.OPTIMAL


def test_a_score_decides_among_what_is_not_zero():
    weight, score = sparse((16, 16), 0.6), np.random.default_rng(1).random((16, 16)).astype(np.float32)
    found = tmask.solve(weight, "2:4", score=score, keep_zeros=True)
    assert not found.mask[weight == 0].any()
    allowed = np.where(weight == 0, 0, score)
    assert found.objective == pytest.approx(tmask.solve(allowed, "2:4", keep_zeros=True).objective)
    assert found.total == pytest.approx(allowed.sum(dtype=np.float64))


def test_a_pattern_that_keeps_everything_keeps_no_zero():
    weight = sparse((8, 8), 0.5)
    np.testing.assert_array_equal(tmask.solve(weight, "4:4", keep_zeros=True).mask, weight != 0)


def test_without_it_nothing_has_changed():
    weight = sparse((16, 16), 0.7)
    assert tmask.solve(weight, "2:4").mask.sum() == 128
    with pytest.raises(tmask.InvalidMaskError, match="at most 2 allowed"):
        tmask.check_mask(np.ones((4, 4), np.bool_), "2:4", at_most=True)


def test_masked_arrays_are_told_of_it():
    with pytest.raises(tmask.InvalidProblemError, match=r"weight\.filled\(0\).*keep_zeros=True"):
        tmask.solve(np.ma.array(sparse((8, 8), 0.1)), "2:4")

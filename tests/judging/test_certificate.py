"""Certificates: never below the optimum, tight where they say so, and not fooled by wrong prices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tmask
from tests.strategies import KINDS, blocks, make_blocks
from tests.test_contract import all_regular, brute_force
from tmask.judging.certificate import judge, objectives, upper_bounds
from tmask.judging.duals import dual_value, is_regular, midpoint_prices, proves_optimal, residual_prices


def optimal_masks(scores, n):
    masks = all_regular(n, scores.shape[1])
    return masks[np.einsum("bij,pij->bp", scores.astype(float), masks.astype(float)).argmax(1)]


@given(blocks(sides=(2, 3, 4)), st.integers(0, 2**32 - 1))
def test_any_prices_bound_the_optimum(problem, seed):
    scores, n = problem
    rng = np.random.default_rng(seed)
    u, v = rng.standard_normal((2, *scores.shape[:2])) * scores.max(initial=0)
    assert (dual_value(scores, n, u, v) >= brute_force(scores, n)).all()


@given(blocks(sides=(2, 3, 4)))
def test_bounds_are_never_below_the_optimum_and_tight_where_they_say_so(problem):
    scores, n = problem
    bounds = upper_bounds(scores, n)
    best = brute_force(scores, n)
    assert (bounds.value >= best * (1 - 1e-15)).all()
    np.testing.assert_allclose(bounds.value[bounds.tight], best[bounds.tight], rtol=1e-15)


@given(blocks(sides=(3, 4)), st.integers(0, 2**32 - 1))
def test_no_prices_prove_a_mask_that_is_not_optimal(problem, seed):
    scores, n = problem
    masks = all_regular(n, scores.shape[1])
    rng = np.random.default_rng(seed)
    chosen = masks[rng.integers(0, len(masks), len(scores))]
    worse = objectives(scores, chosen) < brute_force(scores, n) * (1 - 1e-12)
    for v in (midpoint_prices(scores, n)[1], rng.standard_normal(scores.shape[:2])) if n < scores.shape[1] else ():
        assert not (proves_optimal(scores, chosen, v) & worse).any()
        assert not (proves_optimal(scores, chosen, residual_prices(scores, chosen, v)) & worse).any()


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"wide range", "one huge"}))
@pytest.mark.parametrize("n", [1, 2, 3])
def test_residual_prices_prove_every_optimal_mask(kind, n):
    scores = make_blocks(kind, 50, 4, seed=n)
    masks = optimal_masks(scores, n)
    assert proves_optimal(scores, masks, residual_prices(scores, masks, midpoint_prices(scores, n)[1])).all()


def test_the_comparison_sees_below_rounding():
    """fl(1 - 2^-60) = 1, so a rounded comparison takes the two for equal; the exact one does not."""
    scores = np.array([[[1.0, 1.0], [0.0, 0.0]]])
    keeps_second = np.array([[[False, True], [True, False]]])
    cheaper_first = np.array([[2.0**-60, 2.0**-59]])  # the first column's entry is worth more, by 2^-60
    assert not proves_optimal(scores, keeps_second, cheaper_first)[0]
    assert not proves_optimal(scores, ~keeps_second, cheaper_first)[0]  # the second row rather keeps column 0 too
    scores[0, 1, 1] = 2.0**-50
    assert proves_optimal(scores, ~keeps_second, cheaper_first)[0]


def test_midpoints_solve_almost_all_blocks_without_ties():
    _, _, masks, solved = midpoint_prices(make_blocks("normal", 500, 8), 4)
    assert solved.mean() > 0.99
    assert is_regular(masks[solved], 4).all()


def test_underfilled_masks_are_never_called_regular():
    scores = make_blocks("normal", 3, 4)
    masks = optimal_masks(scores, 2)
    masks[1, 0] = False
    judgement = judge(scores, masks, 2)
    assert judgement.regular.tolist() == [True, False, True]
    assert judgement.proven.tolist() == [True, False, True]
    assert judgement.bound[1] > judgement.objective[1]


@pytest.mark.parametrize("shape", [(8, 8), (9, 7), (8, 4, 3, 3), (3, 3)])
@pytest.mark.parametrize("pattern", ["2:4", "1:4", "3:5"])
def test_certify_accepts_what_solve_found(shape, pattern):
    weight = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    solution = tmask.solve(weight, pattern)
    certificate = tmask.certify(weight, solution.mask, pattern)
    assert certificate.optimal
    assert certificate.optimality_gap == 0 == solution.optimality_gap
    assert certificate.objective == solution.objective
    assert solution.objective == pytest.approx(np.abs(weight, dtype=np.float64)[solution.mask].sum(), rel=1e-14)
    assert certificate.retained == pytest.approx(solution.objective / np.abs(weight, dtype=np.float64).sum())


def test_certify_names_what_is_wrong():
    weight = np.ones((4, 8), np.float32)
    mask = np.tile(np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], bool), (1, 2))
    assert tmask.certify(weight, mask, "2:4").optimal
    mask[1, 5] = False
    certificate = tmask.certify(weight, mask, "2:4")
    assert not certificate.feasible
    assert not certificate.optimal
    assert "rows 0-3, columns 4-7 keeps 1 in its row 1, exactly 2 allowed" in certificate.violation
    assert "infeasible" in repr(certificate)


@pytest.mark.parametrize(
    ("mask", "says"),
    [(np.ones((4, 4)), "must be bool"), (np.ones((4, 5), bool), "shape"), ([[True]], "is a list")],
)
def test_certify_refuses_what_is_no_mask(mask, says):
    with pytest.raises(tmask.InvalidProblemError, match=says):
        tmask.certify(np.ones((4, 4)), mask, "2:4")


def test_certify_without_numba_agrees(monkeypatch):
    """The numpy path, which serves where no reference solver is installed."""
    weight = np.random.default_rng(2).standard_normal((24, 24)).astype(np.float32)
    mask = tmask.solve(weight, "4:8", solver="bi-nm").mask
    fast = tmask.certify(weight, mask, "4:8")
    monkeypatch.setattr("tmask.solving.reference.reference_solver", lambda side: None)
    slow = tmask.certify(weight, mask, "4:8")
    assert slow.dual_bound == pytest.approx(fast.dual_bound, rel=1e-6)
    assert slow.objective == fast.objective

"""Worth: shares, gaps and sums."""

import numpy as np
import pytest

import tmask
from tmask.judging.worth import Worth, optimality_gaps


def test_a_share_of_nothing_is_all_of_it_and_a_bound_of_nothing_leaves_no_gap():
    nothing = Worth(0.0, 0.0, 0.0)
    assert (nothing.retained, nothing.optimality_gap) == (1.0, 0.0)


def test_shares_and_gaps():
    worth = Worth(objective=6.0, total=10.0, dual_bound=8.0)
    assert (worth.retained, worth.optimality_gap) == (0.6, 0.25)
    assert Worth(6.0, 10.0, None).optimality_gap is None


def test_a_sum_has_a_bound_only_if_each_part_has_one():
    parts = [Worth(1.0, 2.0, 1.0), Worth(3.0, 4.0, 3.5)]
    assert Worth.sum(parts) == Worth(4.0, 6.0, 4.5)
    assert Worth.sum([*parts, Worth(1.0, 1.0, None)]) == Worth(5.0, 7.0, None)


def test_the_sum_of_no_parts_is_worth_nothing():
    assert Worth.sum([]) == Worth(0.0, 0.0, 0.0)


@pytest.mark.parametrize("field", ["objective", "total", "dual_bound"])
def test_a_worth_does_not_change(field):
    with pytest.raises(AttributeError):
        setattr(Worth(1.0, 1.0, 1.0), field, 2.0)


def test_gaps_of_many_are_those_of_each():
    objectives, bounds = np.array([6.0, 0.0, 0.1, 3.0]), np.array([8.0, 0.0, 0.3, 3.0])
    each = [Worth(o, 10.0, b).optimality_gap for o, b in zip(objectives.tolist(), bounds.tolist(), strict=True)]
    assert optimality_gaps(objectives, bounds).tolist() == each


def test_solutions_and_certificates_are_worth_something():
    weight = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    solution = tmask.solve(weight, "2:4")
    certificate = tmask.certify(weight, solution.mask, "2:4")
    worth = Worth(solution.objective, solution.total, solution.dual_bound)
    for found in (solution, certificate):
        assert (found.objective, found.total, found.dual_bound) == (worth.objective, worth.total, worth.dual_bound)
        assert (found.retained, found.optimality_gap) == (worth.retained, worth.optimality_gap)
    assert tmask.Worth.sum([solution, certificate]).objective == 2 * solution.objective
    assert repr(solution).startswith("<Solution 2:4 matrix (8, 8) by ")
    assert repr(certificate).startswith("<Certificate 2:4 matrix: optimal, gap 0,")

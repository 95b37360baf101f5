"""Problems that cannot be solved are refused, and say why."""

import pytest
import torch

from tests.nn.methods.problems import problem
from tmask.errors import InvalidProblemError
from tmask.nn.methods.goal import goal_of
from tmask.nn.methods.problem import Problem
from tmask.nn.methods.registry import get_method
from tmask.nn.methods.support import Plain

SUPPORT = Plain("2:4")
ONES, EYE = torch.ones(4, 4), torch.eye(4)
NAN = torch.tensor([[float("nan")]]).expand(4, 4)


@pytest.mark.parametrize(
    ("weight", "moments", "cross", "energy", "says"),
    [
        (ONES[0], EYE, None, None, "weight"),
        (ONES.half(), EYE.half(), None, None, "float16"),
        (ONES[:0], EYE, None, None, "shape"),
        (NAN, EYE, None, None, "weight holds NaN"),
        (ONES, NAN, None, None, "moments holds NaN"),
        (ONES, EYE, NAN, None, "cross holds NaN"),
        (ONES * float("inf"), EYE, None, None, "infinite"),
        (ONES, torch.eye(5), None, None, r"\(4, 4\)"),
        (ONES, EYE, torch.eye(3), None, "cross is of shape"),
        (ONES, EYE.double(), None, None, "moments is torch.float64"),
        (ONES, -EYE, None, None, "negative"),
        (ONES, EYE, None, 1.0, "energy"),
    ],
)
def test_refused(weight, moments, cross, energy, says):
    with pytest.raises(InvalidProblemError, match=says):
        Problem(weight, moments, cross, SUPPORT, energy)


@pytest.mark.parametrize("cross", [None, EYE])
@pytest.mark.parametrize("name", ["sparsegpt", "alps"])
def test_moments_of_no_inputs_at_all(name, cross):
    """Off the diagonal larger than on it: nothing has such moments, but damping that is lost in rounding comes near."""
    impossible = Problem(ONES, 2 * ONES - EYE, cross, SUPPORT)
    with pytest.raises(InvalidProblemError, match="more damping"):
        get_method(name).prune(impossible)


@pytest.mark.parametrize(("damping", "shrinkage"), [(0.02, 0.0), (0.001, 0.3)])
def test_the_goal_minimises_the_damped_error(damping, shrinkage):
    drawn = problem(SUPPORT, dtype=torch.float64, cross=True)
    goal = goal_of(drawn, damping, shrinkage)
    squares = drawn.moments.diagonal()
    strength = damping * squares.mean() + shrinkage * squares
    slope = goal.weight @ drawn.moments - drawn.weight @ drawn.cross.T + strength * (goal.weight - drawn.weight)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-9, rtol=0)


def test_hessian_holds_both_penalties():
    drawn = problem(SUPPORT, dtype=torch.float64)
    squares = drawn.moments.diagonal()
    expected = drawn.moments + torch.diag(0.1 * squares.mean() + 0.2 * squares)
    torch.testing.assert_close(goal_of(drawn, 0.1, 0.2).hessian, expected)


def test_without_cross_the_goal_is_the_weight():
    drawn = problem(SUPPORT)
    assert torch.equal(goal_of(drawn, 0.02).weight, drawn.weight)


def test_cross_moments_of_the_same_inputs_change_nothing():
    drawn = problem(SUPPORT, dtype=torch.float64)
    same = Problem(drawn.weight, drawn.moments, drawn.moments, SUPPORT)
    torch.testing.assert_close(goal_of(same).weight, drawn.weight)

"""The sweep: what it is by its definition, one removed weight after the other."""

import pytest
import torch

from tests.nn.methods.problems import problem
from tmask.errors import InvalidProblemError
from tmask.nn.methods.goal import goal_of
from tmask.nn.methods.registry import get_method
from tmask.nn.methods.support import Plain, Transposable, Unstructured


def swept_by_definition(goal, mask):
    """Optimal brain surgeon with columns fixed in order: after each, the best of the columns behind it."""
    weight = goal.weight.clone()
    for j in range(weight.shape[1]):
        inverse = torch.linalg.inv(goal.hessian[j:, j:])
        removed = torch.where(mask[:, j], 0, weight[:, j])
        weight[:, j:] -= removed[:, None] / inverse[0, 0] * inverse[0]
    return torch.where(mask, weight, 0)


@pytest.mark.parametrize("support", [Transposable("2:4"), Plain("3:5"), Unstructured(0.5)], ids=["t", "p", "u"])
@pytest.mark.parametrize("masks", ["as-it-goes", "up-front"])
@pytest.mark.parametrize("shape", [(6, 9), (4, 150), (1, 6)], ids=str)
def test_sweep_by_its_definition(support, masks, shape):
    """Panels and groups cut short among them."""
    drawn = problem(support, *shape, dtype=torch.float64, dead=(1,))
    found = get_method("sparsegpt", masks=masks, refit=False).prune(drawn)
    expected = swept_by_definition(goal_of(drawn), found.mask)
    torch.testing.assert_close(found.weight, expected, rtol=1e-6, atol=1e-8)


def test_as_it_goes_each_group_is_chosen_from_its_weights_by_then():
    drawn = problem(Plain("2:4"), 6, 8, dtype=torch.float64)
    found = get_method("sparsegpt", refit=False).prune(drawn)
    goal = goal_of(drawn)
    pivots = torch.linalg.cholesky(torch.linalg.inv(goal.hessian), upper=True).diagonal()
    first = drawn.support.project((goal.weight / pivots)[:, :4].square()).mask
    assert torch.equal(found.mask[:, :4], first)
    half = torch.cat([first, torch.ones(6, 4, dtype=torch.bool)], 1)
    then = (swept_by_definition(goal, half) / pivots)[:, 4:].square()
    assert torch.equal(found.mask[:, 4:], drawn.support.project(then).mask)


def test_masks_as_it_goes_are_better():
    for seed in range(5):
        drawn = problem(Transposable("2:4"), 32, 64, seed, samples=1000)
        later, earlier = (get_method("sparsegpt", masks=masks).prune(drawn) for masks in ("as-it-goes", "up-front"))
        assert later.error < earlier.error


def test_settings_that_cannot_be_meant():
    with pytest.raises(InvalidProblemError, match="masks"):
        get_method("sparsegpt", masks="later")

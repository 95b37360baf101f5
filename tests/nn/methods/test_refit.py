"""The refit: what it minimises, by either way, and that it never harms."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.nn.methods.problems import problem, problems
from tmask.errors import InvalidProblemError
from tmask.nn.methods.goal import goal_of
from tmask.nn.methods.refit import Refit, refit
from tmask.nn.methods.support import Plain, Transposable

EXACT = Refit(by="cholesky")
ITERATED = Refit(by="conjugate-gradients", tolerance=1e-12, steps=1000)


def random_mask(drawn, seed=0, density=0.5):
    return torch.rand(drawn.weight.shape, generator=torch.Generator().manual_seed(seed)) < density


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("settings", [EXACT, ITERATED], ids=["cholesky", "conjugate-gradients"])
def test_slope_on_the_support_is_0(settings, cross):
    """Rows that keep different numbers, one nothing and one all; inputs that are always 0."""
    drawn = problem(Plain("2:4"), 12, 20, dtype=torch.float64, cross=cross, dead=(3, 4))
    mask = random_mask(drawn)
    mask[0], mask[1] = False, True
    found = refit(drawn.weight, mask, drawn, settings)
    goal = goal_of(drawn)
    slope = torch.where(mask, (found - goal.weight) @ goal.hessian, 0)
    assert float(slope.abs().max()) < 1e-6 * float((goal.weight @ goal.hessian).abs().max())
    assert bool((found[~mask] == 0).all())


@given(problems(), st.integers(0, 99), st.sampled_from((0.1, 0.5, 0.9)))
def test_both_ways_agree(drawn, seed, density):
    mask = random_mask(drawn, seed, density)
    first, second = (refit(drawn.weight, mask, drawn, settings) for settings in (EXACT, ITERATED))
    goal = goal_of(drawn)
    torch.testing.assert_close(goal.excess(first), goal.excess(second), rtol=1e-6, atol=1e-8)


@given(problems(), st.integers(0, 99), st.integers(1, 4))
def test_never_worse_than_the_start(drawn, seed, steps):
    """However early it is stopped; from the dense weights, and from the best ones."""
    mask = random_mask(drawn, seed)
    goal = goal_of(drawn)
    for start in (drawn.weight, refit(drawn.weight, mask, drawn, EXACT)):
        before = goal.excess(torch.where(mask, start, 0))
        for settings in (Refit(by="conjugate-gradients", steps=steps), EXACT):
            after = goal.excess(refit(start, mask, drawn, settings))
            assert bool((after <= before * (1 + 1e-12) + 1e-12).all())


def test_rows_that_would_get_worse_stay():
    drawn = problem(Plain("2:4"), dtype=torch.float64)
    goal = goal_of(drawn)
    near, far = drawn.weight + 0.1, drawn.weight + 0.2
    mixed = torch.where(torch.arange(12)[:, None] % 2 == 0, near, far)
    assert torch.equal(goal.better(mixed, near), near)
    assert torch.equal(goal.better(near, mixed), near)


def test_default_comes_near_the_best():
    drawn = problem(Transposable("2:4"), 32, 64, samples=1000)
    mask = drawn.support.project(drawn.weight.abs()).mask
    goal = goal_of(drawn)
    best = float(goal.excess(refit(drawn.weight, mask, drawn, EXACT)).sum())
    iterated = refit(drawn.weight, mask, drawn, Refit(by="conjugate-gradients"))
    assert best <= float(goal.excess(iterated).sum()) < 1.01 * best


def test_few_kept_weights_are_refitted_exactly_on_their_own(monkeypatch):
    """`auto` looks at how many weights are kept in a row."""
    drawn = problem(Plain("2:4"), 8, 64)
    sparse, full = torch.zeros(8, 64, dtype=torch.bool), torch.ones(8, 64, dtype=torch.bool)
    sparse[:, :4] = True
    assert Refit()._is_cheaper_exact(sparse)
    assert not Refit()._is_cheaper_exact(torch.ones(8, 512, dtype=torch.bool))
    for mask in (sparse, full):
        a, b = (refit(drawn.weight, mask, drawn, settings) for settings in (None, EXACT))
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("settings", [{"by": "adam"}, {"tolerance": 0.0}, {"steps": 0}, {"steps": 1.5}], ids=str)
def test_settings_that_cannot_be_meant(settings):
    with pytest.raises(InvalidProblemError, match=next(iter(settings))):
        Refit(**settings)


def test_what_does_not_fit_is_refused():
    drawn = problem(Plain("2:4"))
    mask = random_mask(drawn)
    for weight, kept, says in (
        (drawn.weight, mask.float(), "mask"),
        (drawn.weight, mask[:2], "mask"),
        (drawn.weight.double(), mask, "weight"),
        (drawn.weight * float("nan"), mask, "NaN"),
    ):
        with pytest.raises(InvalidProblemError, match=says):
            refit(weight, kept, drawn)
    with pytest.raises(InvalidProblemError, match="damping"):
        refit(drawn.weight, mask, drawn, damping=0.0)

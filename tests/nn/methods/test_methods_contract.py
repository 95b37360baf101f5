"""What holds of every registered method, for every kind of support: a new method needs no line here."""

import contextlib
import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tmask
from tests.nn.methods.problems import SUPPORTS, inputs, problem, problems
from tmask.errors import InvalidProblemError
from tmask.nn.methods.goal import goal_of
from tmask.nn.methods.method import Method
from tmask.nn.methods.problem import Problem
from tmask.nn.methods.registry import available_methods, get_method
from tmask.nn.methods.support import Plain, Transposable, Unstructured

METHODS = available_methods()
every_method = pytest.mark.parametrize("name", METHODS)
every_support = pytest.mark.parametrize("support", SUPPORTS.values(), ids=SUPPORTS.keys())


def check_support(mask, support):
    """Exactly n in full lines where the solver is exact, at most n elsewhere; the share where unstructured."""
    rows, columns = mask.shape
    if isinstance(support, Transposable):
        if support.solver == "auto":
            tmask.check_mask(mask, support.pattern)
        counts = mask[: rows // 4 * 4, : columns // 4 * 4].reshape(rows // 4, 4, columns // 4, 4).sum(1)
        assert support.pattern.m != 4 or int(counts.max() if counts.numel() else 0) <= support.pattern.n
    elif isinstance(support, Plain):
        full = mask[:, : columns // support.pattern.m * support.pattern.m].reshape(rows, -1, support.pattern.m)
        assert bool((full.sum(2) == support.pattern.n).all())
        assert int(mask[:, full[0].numel() :].sum(1).max() if columns % support.pattern.m else 0) <= support.pattern.n
    else:
        # SparseGPT shares out each group of 128 inputs for itself, so that every panel rounds once.
        kept = mask.sum(1) if support.across == "row" else mask.sum()[None]
        size = columns if support.across == "row" else mask.numel()
        assert bool(((kept - support.density * size).abs() <= 0.5 * -(-columns // 128)).all())


@every_method
@every_support
@pytest.mark.parametrize("cross", [False, True], ids=["dense", "cross"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("shape", [(12, 16), (1, 9), (10, 13), (5, 150), (3, 2)], ids=str)
def test_answer(name, support, cross, dtype, shape):
    given_problem = problem(support, *shape, dtype=dtype, cross=cross, dead=(0,))
    before = given_problem.weight.clone(), given_problem.moments.clone()
    found = get_method(name).prune(given_problem)
    assert found.mask.shape == found.weight.shape == shape
    assert found.mask.dtype == torch.bool
    assert found.weight.dtype == dtype
    assert bool(torch.isfinite(found.weight).all())
    off = found.weight[~found.mask]
    assert bool((off == 0).all())
    assert not bool(torch.signbit(off).any())  # -0.0 counts as nonzero in some compressors
    check_support(found.mask, support)
    assert found.error is not None
    assert found.error >= 0
    assert 0 < found.worth.objective <= found.worth.total * (1 + 1e-6)
    if found.worth.dual_bound is not None:
        assert found.worth.optimality_gap == pytest.approx(0, abs=1e-6)
    assert torch.equal(before[0], given_problem.weight)
    assert torch.equal(before[1], given_problem.moments)


@every_method
@every_support
@pytest.mark.parametrize("cross", [False, True], ids=["dense", "cross"])
def test_refit_does_not_harm_and_pays(name, support, cross):
    given_problem = problem(support, 16, 24, cross=cross)
    fitted, bare = (get_method(name, refit=refit).prune(given_problem) for refit in (True, False))
    assert torch.equal(fitted.mask, bare.mask)
    goal = goal_of(given_problem)
    assert bool((goal.excess(fitted.weight) <= goal.excess(bare.weight) * (1 + 1e-5)).all())
    assert fitted.error <= bare.error * 1.01  # the penalty, which is no part of it, may take a little
    if name != "alps":  # whose weights are near the best on their support
        assert fitted.error < 0.95 * bare.error


@given(st.sampled_from(METHODS), problems())
def test_answers_of_drawn_problems(name, drawn):
    """Few samples, dead inputs, sides that m does not divide: a mask of its kind, and a refit that does not harm."""
    found = get_method(name).prune(drawn)
    check_support(found.mask, drawn.support)
    bare = get_method(name, refit=False).prune(drawn)
    goal = goal_of(drawn)
    assert bool((goal.excess(found.weight) <= goal.excess(bare.weight) * (1 + 1e-9) + 1e-9).all())


@every_method
@every_support
def test_same_problem_same_answer(name, support):
    first, second = (get_method(name).prune(problem(support)) for _ in range(2))
    assert torch.equal(first.mask, second.mask)
    assert torch.equal(first.weight, second.weight)


@every_method
@pytest.mark.parametrize("support", [Transposable("2:4"), Plain("2:4"), Unstructured(0.5)], ids=["t", "p", "u"])
def test_permuted_outputs_give_permuted_weights(name, support):
    """By whole tiles for a transposable mask, and in each tile."""
    order = torch.cat([torch.randperm(4) + 4 * i for i in (2, 0, 1)])
    drawn = problem(support, dtype=torch.float64)
    moved = dataclasses.replace(drawn, weight=drawn.weight[order])
    first, second = get_method(name).prune(drawn), get_method(name).prune(moved)
    assert torch.equal(first.mask[order], second.mask)
    torch.testing.assert_close(first.weight[order], second.weight, rtol=1e-6, atol=1e-8)
    assert first.error == pytest.approx(second.error)


@every_method
@every_support
def test_larger_weights_and_inputs_change_no_mask(name, support):
    drawn = problem(support, dtype=torch.float64)
    scaled = Problem(1024 * drawn.weight, drawn.moments / 4096, None, support)
    first, second = get_method(name).prune(drawn), get_method(name).prune(scaled)
    assert torch.equal(first.mask, second.mask)
    torch.testing.assert_close(1024 * first.weight, second.weight)


@every_method
@every_support
def test_inputs_that_are_all_dead(name, support):
    found = get_method(name).prune(Problem(torch.randn(8, 8), torch.zeros(8, 8), None, support))
    check_support(found.mask, support)
    assert found.error == 0


@every_method
def test_dead_inputs_take_nothing_from_the_others(name):
    """Beside inputs that are always 0, the live ones do as well as alone."""
    alone = problem(Plain("2:4"), 6, 16, dtype=torch.float64)
    moments = torch.zeros(24, 24, dtype=torch.float64)
    moments[:16, :16] = alone.moments * 24 / 16  # for the same damping: a share of the mean of all
    beside = Problem(torch.cat([alone.weight, torch.ones(6, 8, dtype=torch.float64)], 1), moments, None, alone.support)
    first = get_method(name).prune(dataclasses.replace(alone, moments=alone.moments * 24 / 16))
    second = get_method(name, damping=0.0015).prune(beside)
    assert second.error <= 1.2 * first.error  # the schedule of alps looks at the share of the mask that changed


@every_method
def test_error_is_that_of_the_outputs(name):
    x = inputs(300, 16, dtype=torch.float64)
    dense = x + 0.1 * torch.randn_like(x)
    weight = torch.randn(8, 16, dtype=torch.float64)
    for target, cross in ((x, None), (dense, x.T @ dense / 300)):
        y = target @ weight.T
        energy = None if cross is None else float(y.square().sum() / 300)
        found = get_method(name).prune(Problem(weight, x.T @ x / 300, cross, Transposable("2:4"), energy))
        assert found.error == pytest.approx(float((x @ found.weight.T - y).square().sum() / y.square().sum()))


@every_method
def test_without_energy_the_error_is_not_known(name):
    drawn = dataclasses.replace(problem(Plain("2:4"), cross=True), energy=None)
    assert get_method(name).prune(drawn).error is None


@every_method
def test_toward_the_dense_outputs_pays(name):
    """Measured on them, the goal that knows of them comes nearer."""
    drawn = problem(Transposable("2:4"), 32, 32, dtype=torch.float64, cross=True, samples=500)
    toward = get_method(name).prune(drawn)
    blind = get_method(name).prune(dataclasses.replace(drawn, cross=None, energy=None))
    assert toward.error < 0.9 * drawn.error(blind.weight)


@every_method
def test_everything_kept_is_the_goal(name):
    for cross in (False, True):
        drawn = problem(Transposable("4:4"), dtype=torch.float64, cross=cross)
        found = get_method(name).prune(drawn)
        assert bool(found.mask.all())
        torch.testing.assert_close(found.weight, goal_of(drawn).weight)


@every_method
@pytest.mark.parametrize(
    "settings",
    [
        {"damping": 0.0},
        {"damping": -1.0},
        {"damping": float("nan")},
        {"damping": "much"},
        {"shrinkage": -0.1},
        {"refit": "yes"},
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant(name, settings):
    with pytest.raises(InvalidProblemError, match=next(iter(settings))):
        get_method(name, **settings)


@every_method
def test_is_a_frozen_dataclass_with_a_name(name):
    method = get_method(name)
    assert isinstance(method, Method)
    assert method.name == name
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.damping = 1.0
    assert get_method(name, **{f.name: getattr(method, f.name) for f in dataclasses.fields(method)}) == method


@every_method
@every_support
def test_values_beyond_the_dtype_are_refused_or_survived(name, support):
    """Weights that a float32 holds, but not what they give out."""
    huge = Problem(torch.full((8, 8), 3e38), 1e30 * torch.ones(8, 8), None, support)
    with contextlib.suppress(InvalidProblemError):
        assert bool(torch.isfinite(get_method(name).prune(huge).weight).all())

"""Smooth masks: kept weights shrink by a share of their price, and are scaled; every way out of a model agrees."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tmask
from tests.nn.models import mlp
from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn import Periodic, bake, export, export_state_dict, sparsify
from tmask.nn.mask.cutting import WHOLE, Cutting
from tmask.nn.mask.smoothing import fitting_scale, midpoint_prices, shrink, thresholds


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trained(model, steps=6, width=8, **settings):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sparsify(model, optimizer=optimizer, smoothing=0.5, **settings)
    for step in range(steps):
        optimizer.zero_grad()
        model(drawn(4, width, seed=step)).square().mean().backward()
        optimizer.step()
    return sparsifier


@pytest.mark.parametrize("pattern", ["2:4", "4:8", "1:4", "8:16"])
def test_prices_part_what_is_kept_from_what_is_pruned(pattern):
    n, m = Pattern.parse(pattern).n, Pattern.parse(pattern).m
    weight = drawn(16 * m, 4 * m)
    mask = tmask.solve(weight, pattern).mask
    threshold = thresholds(weight, Pattern(n, m), WHOLE)
    right = (weight.abs() >= threshold) == mask
    assert right.float().mean() > 0.97
    # And so a kept entry has something left, nearly everywhere.
    assert (shrink(weight, mask, threshold, torch.tensor(1.0)) != 0)[mask].float().mean() > 0.97


@given(seed=st.integers(0, 2**16), size=st.floats(1e-6, 1e-3))
def test_thresholds_are_continuous(seed, size):
    score = drawn(3, 8, 8, seed=seed).abs()
    near = score + size * drawn(3, 8, 8, seed=seed + 1)
    before, after = (
        (u[:, :, None] + v[:, None, :]) for u, v in (midpoint_prices(one, 4) for one in (score, near.abs()))
    )
    # Each round moves a price by at most the change of the scores and of the prices before it.
    assert (after - before).abs().max() <= 40 * (near.abs() - score).abs().max()


def test_an_entry_is_small_when_it_changes_sides():
    """Move one weight up until it drives another out: the product jumps by all of it, or by next to nothing."""
    weight = drawn(4, 4, seed=3)
    jumps = {}
    for share in (0.0, 1.0):
        last, jump = None, 0.0
        for value in torch.linspace(0, 3, 3001):
            weight[0, 0] = value
            mask = tmask.solve(weight, "2:4").mask
            shrunk = shrink(weight, mask, share * thresholds(weight, Pattern(2, 4), WHOLE), torch.tensor(1.0))
            if last is not None:
                jump = max(jump, float((shrunk - last).abs().max()))
            last = shrunk
        jumps[share] = jump
    assert jumps[0.0] > 0.1
    assert jumps[1.0] < jumps[0.0] / 4


def test_the_scale_is_that_of_least_squares():
    weight, shrunk = drawn(8, 8), drawn(8, 8, seed=1)
    best = torch.linalg.lstsq(shrunk.flatten()[:, None].double(), weight.flatten().double()[:, None]).solution
    assert torch.allclose(fitting_scale(weight, shrunk), best.squeeze())
    assert fitting_scale(weight, torch.zeros(8, 8)) == 1


def test_an_entry_below_its_threshold_is_left_at_zero():
    weight = torch.tensor([0.5, -0.5, 2.0, -2.0, 2.0])
    mask = torch.tensor([True, True, True, True, False])
    found = shrink(weight, mask, torch.ones(5), torch.tensor(3.0))
    assert torch.equal(found, torch.tensor([0.0, 0.0, 3.0, -3.0, 0.0]))


def test_what_multiplies_is_the_shrunk_weight_and_the_gradient_passes_whole():
    model = mlp()
    sparsifier = sparsify(model, "2:4", schedule=Periodic(every=1), smoothing=0.5)
    layer = sparsifier.layers[0]
    weight, mask = layer.weight.detach(), layer.masked.mask
    left = (weight.abs() - 0.5 * thresholds(weight, layer.pattern, WHOLE)).clamp(min=0) * weight.sign() * mask
    scale = fitting_scale(weight, left).float()
    assert torch.allclose(model[0].weight, scale * left)
    assert scale > 1
    grad = drawn(*weight.shape)
    model[0].weight.backward(grad)
    assert torch.equal(layer.weight.grad, grad)


def test_under_the_masked_rule_the_gradient_is_the_derivative():
    model = mlp(dtype=torch.float64)
    sparsify(model, "2:4", schedule=Periodic(every=1, gradient="masked"), smoothing=0.5)
    masked = model[0].parametrizations.weight[0]
    assert torch.autograd.gradcheck(masked._masked, (model[0].parametrizations.weight.original,))


def test_the_scale_stays_until_the_pattern_changes():
    model = mlp()
    scales = []
    trained(
        model,
        schedule=Periodic(every=1, begin=1, ramp=2),
        pattern="2:4",
        on_renewal=lambda renewal: scales.append(float(model[0].parametrizations.weight[0].scale)),
    )
    # Dense before the first, then 4:4, 3:4, and 2:4 from the third on.
    assert len(set(scales[-3:])) == 1
    assert len(set(scales)) >= 2


@pytest.mark.parametrize("kind", ["linear", "ragged", "convolution", "grouped"])
def test_every_way_out_of_a_model_agrees(kind):
    torch.manual_seed(0)
    layers = {
        "linear": nn.Linear(8, 16),
        "ragged": nn.Linear(8, 18),
        "convolution": nn.Sequential(nn.Unflatten(1, (8, 1)), nn.Conv1d(8, 8, 1)),
        "grouped": nn.Sequential(nn.Unflatten(1, (8, 1)), nn.Conv1d(8, 16, 1, groups=2)),
    }
    model = nn.Sequential(layers[kind])
    sparsifier = trained(model, pattern="2:4", schedule=Periodic(every=2))
    name = sparsifier.layers[0].name
    module, tensor = model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
    multiplies = getattr(module, tensor).detach().clone()
    assert not torch.equal(multiplies, torch.where(sparsifier.layers[0].masked.mask, sparsifier.layers[0].weight, 0))
    assert torch.equal(bake(model.state_dict())[name], multiplies)
    assert torch.equal(export_state_dict(model)[name], multiplies)
    assert torch.equal(export(model).get_parameter(name), multiplies)


def test_a_resumed_run_repeats_the_uninterrupted_one():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"schedule": Periodic(every=2), "smoothing": 0.5, "hysteresis": 0.3}
    sparsifier = sparsify(model, "2:4", optimizer=optimizer, **settings)

    def go_on(model, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            model(drawn(4, 8, seed=step)).square().mean().backward()
            optimizer.step()

    go_on(model, optimizer, range(3))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), sparsifier.state_dict()))
    go_on(model, optimizer, range(3, 8))
    other = mlp(seed=1)
    again = torch.optim.SGD(other.parameters(), lr=0.1)
    resumed = sparsify(other, "2:4", optimizer=again, **settings)
    for part, state in zip((other, again, resumed), saved, strict=True):
        part.load_state_dict(state)
    go_on(other, again, range(3, 8))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_packed_copies_hold_the_shrunk_weight(unpacked):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64).bfloat16())
    sparsify(model, "2:4", backend="semi_structured", smoothing=0.5)
    x = drawn(32, 32).bfloat16()
    wanted = nn.functional.linear(x, model[0].weight, model[0].bias)
    assert torch.allclose(model(x), wanted, rtol=1e-2, atol=1e-2)
    assert unpacked.products


def test_a_write_into_the_effective_weight_reaches_the_dense_one():
    model = mlp()
    sparsifier = sparsify(model, "2:4", smoothing=0.5, schedule=Periodic(every=1))
    weight = model[0].weight
    weight.data *= 2
    assert torch.equal(weight, sparsifier.layers[0].masked.values(sparsifier.layers[0].weight))


@pytest.mark.parametrize("name", ["smoothing", "hysteresis"])
@pytest.mark.parametrize("value", [-0.1, 1.5, True, "0.5", float("nan")])
def test_a_share_out_of_range_is_refused(name, value):
    with pytest.raises(InvalidProblemError, match=f"{name} must be a share from 0 to 1"):
        sparsify(mlp(), **{name: value})


def test_stacks_are_tiled_matrix_by_matrix():
    weight = drawn(3, 8, 8)
    whole = thresholds(weight, Pattern(2, 4), Cutting(stacked=True))
    parts = torch.stack([thresholds(one, Pattern(2, 4), WHOLE) for one in weight])
    assert torch.equal(whole, parts)

"""`keep_zeros` in training: weights that are 0 are in no mask and stay 0, under every schedule and rule."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import tmask
from tests.nn.pruning.test_keep_zeros import sparse
from tests.nn.pruning_models import mlp, rows
from tmask.nn import Frozen, MaskedDecay, Periodic, bake, export, sparsify

SCHEDULES = {
    "frozen": Frozen(),
    "frozen, straight-through": Frozen(gradient="straight-through"),
    "periodic": Periodic(every=2),
    "periodic, masked": Periodic(every=2, gradient="masked"),
    "begins late": Periodic(every=2, begin=3),
    "begins late, masked": Periodic(every=2, begin=3, gradient="masked"),
    "ramp": Periodic(every=1, ramp=3),
    "dense tail": Periodic(every=1, dense_from=4),
}


def trained(model, schedule, steps=6, optimizer=torch.optim.AdamW, **settings):
    optimizer = optimizer(model.parameters(), lr=0.05, weight_decay=0.1)
    sparsifier = sparsify(model, "2:4", schedule=schedule, optimizer=optimizer, **settings)
    for step in range(steps):
        optimizer.zero_grad()
        model(rows()[step % 4]).square().mean().backward()
        optimizer.step()
    return sparsifier


@pytest.mark.parametrize("name", SCHEDULES)
def test_zeros_stay_zeros_and_out_of_masks(name):
    model = sparse(mlp())
    zeros = {key: p == 0 for key, p in model.named_parameters()}
    before = copy.deepcopy(model.state_dict())
    sparsifier = trained(model, SCHEDULES[name], keep_zeros=True)
    for layer in sparsifier.layers:
        zero = zeros[layer.name]
        assert not layer.masked.mask[zero].any()
        assert not layer.weight[zero].any()
        assert not torch.equal(layer.weight, before[layer.name])  # the others learn
        if name != "dense tail":
            tmask.check_mask(layer.masked.mask, "2:4", at_most=True)
    baked = bake(model.state_dict())
    assert all(not baked[layer.name][zeros[layer.name]].any() for layer in sparsifier.layers)
    other = sparse(mlp())
    resumed = sparsify(other, "2:4", schedule=SCHEDULES[name], keep_zeros=True)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(sparsifier.state_dict())
    for key, weight in export(model).named_parameters():
        if key in zeros and weight.ndim > 1:
            assert not weight[zeros[key]].any()


def test_without_it_zeros_come_back():
    model = sparse(mlp())
    zero = model[0].weight == 0
    sparsifier = trained(model, Frozen())
    assert sparsifier.layers[0].masked.mask[zero].any()


def test_pruned_weights_that_are_not_zero_learn_on_under_the_straight_through_rule():
    model = sparse(mlp(), 0.2)
    weight = model[0].weight.detach().clone()
    sparsifier = trained(model, Frozen(gradient="straight-through"), steps=1, keep_zeros=True)
    off = ~sparsifier.layers[0].masked.mask & (weight != 0)
    assert off.any()
    assert (sparsifier.layers[0].weight[off] != weight[off]).all()


def test_decay_of_masked_weights_leaves_zeros():
    model = sparse(mlp())
    zero = model[0].weight == 0
    sparsifier = trained(model, Periodic(every=2), decay=MaskedDecay(0.01), keep_zeros=True)
    assert not sparsifier.layers[0].weight[zero].any()


def test_a_given_mask_of_at_most_n_needs_it():
    model = nn.Sequential(nn.Linear(8, 8))
    mask = torch.eye(8, dtype=torch.bool)
    with pytest.raises(tmask.InvalidMaskError, match="exactly 2 allowed"):
        sparsify(model, "2:4", masks={"0": mask})
    sparsifier = sparsify(model, "2:4", masks={"0": mask}, keep_zeros=True)
    assert torch.equal(sparsifier.layers[0].masked.mask, mask)

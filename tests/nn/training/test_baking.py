"""Baking a state gives what exporting its model gives."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import tmask
from tests.nn.models import Attention, Tied, mlp
from tmask import nn as tnn


def conv():
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3, groups=2))


@pytest.mark.parametrize("make", [mlp, Attention, Tied, conv])
def test_it_is_the_state_of_the_exported_model(make):
    model = make()
    tnn.sparsify(model)
    expected = tnn.export_state_dict(model)
    baked = tnn.bake(model.state_dict())
    assert baked.keys() == expected.keys() == make().state_dict().keys()
    assert all(torch.equal(baked[name], expected[name]) for name in expected)
    make().load_state_dict(baked)


def test_prefixes_and_other_entries_stay():
    model = mlp()
    tnn.sparsify(model, exclude=["2"])
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()} | {"steps": torch.tensor(3)}
    baked = tnn.bake(state)
    assert set(baked) == {"module.0.weight", "module.0.bias", "module.2.weight", "module.2.bias", "steps"}
    assert torch.equal(baked["module.0.weight"], model[0].weight)
    assert "module.0.parametrizations.weight.original" in state  # what was given is not changed


def test_tied_weights_share_one_tensor():
    model = Tied()
    tnn.sparsify(model)
    baked = tnn.bake(model.state_dict())
    assert baked["first.weight"] is baked["second.weight"]


def test_a_state_without_masks_is_an_error():
    with pytest.raises(tmask.InvalidProblemError, match="no masks"):
        tnn.bake(mlp().state_dict())


def test_other_parametrizations_beside_a_mask_are_an_error():
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.ones(()))

        def forward(self, weight):
            return weight + self.shift

    model = mlp()
    tnn.sparsify(model)
    parametrize.register_parametrization(model[0], "weight", Shift())
    with pytest.raises(tmask.InvalidProblemError, match=r"'0.weight' has other parametrizations"):
        tnn.bake(model.state_dict())

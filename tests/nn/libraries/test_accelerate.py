"""Hooks of accelerate: those that only move inputs are no hindrance; offloaded weights are refused by their names."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import AlignDevicesHook, add_hook_to_module

import tmask
from tests.nn.models import batch, mlp
from tmask import nn as tnn
from tmask.errors import InvalidProblemError

DATA = [batch((32, 8), k) for k in range(2)]


def hooked(model):
    for module in model.modules():
        add_hook_to_module(module, AlignDevicesHook(torch.device("cpu"), io_same_device=True))
    return model


HOOKED = {"hooks": hooked, "dispatched": lambda model: dispatch_model(model, {"": "cpu"}, force_hooks=True)}
PRUNERS = {"adaprune": tnn.adaprune, "sparsegpt": tnn.sparsegpt}


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("prune", PRUNERS.values(), ids=PRUNERS)
@pytest.mark.parametrize("put", HOOKED.values(), ids=HOOKED)
def test_hooks_change_no_result(prune, put, sequential):
    plain, model = mlp(), put(mlp())
    reports = [prune(one, DATA, "2:4", skip_ends=False, sequential=sequential) for one in (plain, model)]
    assert (
        [row.layer for row in reports[1].layers] == [row.layer for row in reports[0].layers] == ["0.weight", "2.weight"]
    )
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


@pytest.mark.parametrize("put", HOOKED.values(), ids=HOOKED)
def test_hooked_models_are_trained(put):
    model = put(mlp())
    tnn.sparsify(model)
    model(DATA[0]).sum().backward()
    tnn.export(model)
    tmask.check_mask(model[0].weight != 0, "2:4")


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloaded_weights_are_refused_by_their_names(where, tmp_path):
    model = mlp()
    if where == "cpu":
        cpu_offload(model, torch.device("cpu"))
    else:
        disk_offload(model, str(tmp_path), torch.device("cpu"))
    for prune in (*PRUNERS.values(), tnn.prune_blocks):
        with pytest.raises(InvalidProblemError, match=r"0\.weight.* not in memory .*accelerate"):
            prune(model, DATA, "2:4")
    with pytest.raises(InvalidProblemError, match=r"0\.weight.* not in memory .*accelerate"):
        tnn.sparsify(model)

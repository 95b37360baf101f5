"""Hooks of accelerate: those that only move inputs are no hindrance; offloaded weights are pruned where they lie."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, attach_align_device_hook
from accelerate.utils import OffloadedWeightsLoader
from safetensors.torch import save_file
from torch import nn

import tmask
from tests.nn.models import Tied, batch, mlp
from tmask import nn as tnn
from tmask.errors import InvalidProblemError
from tmask.nn.libraries.offloaded import weights_in_reach

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


def blocks(norms=False):
    """Two like blocks, the second with a batch norm."""
    torch.manual_seed(0)
    made = [nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8)) for _ in range(2)]
    if norms:
        made[1].append(nn.BatchNorm1d(8))
    return nn.Sequential(*made)


def offload(model, where, folder):
    """Keep the weights elsewhere: in memory, in files of accelerate's, or in those that the model was loaded from."""
    state = dict(model.state_dict())
    if where == "cpu":
        cpu_offload(model, torch.device("cpu"))
    elif where == "cpu, buffers too":
        cpu_offload(model, torch.device("cpu"), offload_buffers=True)
    elif where == "cpu, whole blocks":
        cpu_offload(model, torch.device("cpu"), preload_module_classes=["Sequential"])
    elif where == "disk":
        disk_offload(model, str(folder), torch.device("cpu"))
    elif where == "one block on disk":
        dispatch_model(model, {"0": "cpu", "1": "disk"}, main_device="cpu", offload_dir=str(folder))
    else:
        save_file(state, str(folder / "model.safetensors"))
        entry = {"safetensors_file": str(folder / "model.safetensors"), "dtype": "float32"}
        loader = OffloadedWeightsLoader(index={name: entry | {"weight_name": name} for name in state})
        attach_align_device_hook(model, torch.device("cpu"), offload=True, weights_map=loader)
    assert any(parameter.is_meta for parameter in model.parameters())
    return model


def masks_of(model):
    shapes = {name: p.shape for name, p in model.named_parameters() if p.ndim == 2}
    return {name: batch(shape, 7) > 0 for name, shape in shapes.items()}


WAYS = {
    "adaprune": lambda m: tnn.adaprune(m, DATA, "2:4", skip_ends=False),
    "at once": lambda m: tnn.adaprune(m, DATA, "2:4", skip_ends=False, sequential=False),
    "sparsegpt": lambda m: tnn.sparsegpt(m, DATA, "2:4", skip_ends=False),
    "reconstruct": lambda m: tnn.reconstruct(m, DATA, masks_of(m)),
    "prune_blocks": lambda m: tnn.prune_blocks(m, DATA, "2:4", method="wanda"),
}


def check_same_as_without(way, where, folder, dtype=torch.float32):
    plain, model = blocks().to(dtype), offload(blocks().to(dtype), where, folder)
    before = {name: p.is_meta for name, p in model.named_parameters()}
    data = DATA[0].to(dtype)
    reports = [way(one) for one in (plain, model)]
    rows = [[row.error for row in getattr(report, "layers", getattr(report, "rows", ()))] for report in reports]
    assert rows[0] == rows[1] != []
    for name, mask in reports[0].masks.items():
        assert torch.equal(reports[1].masks[name], mask)
    # By the hooks, which bring in what was written.
    assert torch.equal(model(data), plain(data))
    assert {name: p.is_meta for name, p in model.named_parameters()} == before
    with weights_in_reach(model):
        for name, value in plain.state_dict().items():
            assert torch.equal(model.state_dict()[name], value)


@pytest.mark.parametrize("where", ["cpu", "cpu, whole blocks", "disk", "one block on disk", "files of the model"])
def test_offloaded_weights_are_pruned_as_others(where, tmp_path):
    check_same_as_without(WAYS["adaprune"], where, tmp_path)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloaded_weights_are_pruned_by_all_ways(way, where, tmp_path):
    check_same_as_without(WAYS[way], where, tmp_path)


def test_offloaded_weights_of_half_the_width(tmp_path):
    data = [one.bfloat16() for one in DATA]
    way = lambda m: tnn.adaprune(m, data, "2:4", skip_ends=False)  # noqa: E731
    check_same_as_without(way, "disk", tmp_path, torch.bfloat16)


def test_the_files_that_a_model_was_loaded_from_stay(tmp_path):
    model = offload(blocks(), "files of the model", tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    WAYS["adaprune"](model)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    with weights_in_reach(model):
        tmask.check_mask(model[0][0].weight != 0, "2:4")


def test_offloaded_batch_norms_are_recomputed():
    plain, model = blocks(norms=True), offload(blocks(norms=True), "cpu, buffers too", None)
    for one in (plain, model):
        assert WAYS["adaprune"](one).batch_norms == 1
    assert torch.equal(model(DATA[0]), plain(DATA[0]))


def test_offloaded_weights_are_converted():
    plain, model = blocks(), blocks()
    for one in (plain, model):
        with torch.no_grad():
            for parameter in one.parameters():
                parameter.masked_fill_(batch(tuple(parameter.shape), 3) < 0.7, 0.0)
    offload(model, "cpu", None)
    for one in (plain, model):
        assert tnn.convert(one, DATA, m=4, confidence=0.5, skip_ends=False).pruning.layers
    assert torch.equal(model(DATA[0]), plain(DATA[0]))


def test_losses_and_sums_of_offloaded_weights():
    plain, model = blocks(), offload(blocks(), "cpu", None)
    losses = [tnn.reconstruction_losses(one, DATA, ["2:4"], skip_ends=False) for one in (plain, model)]
    assert losses[0] == losses[1]
    sums = [tnn.collect_grams(one, DATA) for one in (plain, model)]
    assert all(torch.equal(sums[0][name].xx, sums[1][name].xx) for name in sums[0])


def test_offloaded_weights_that_are_tied_stay_so():
    plain, model = Tied(), Tied()
    model.load_state_dict(plain.state_dict())
    cpu_offload(model, torch.device("cpu"))
    tokens = [torch.arange(12).reshape(2, 6)]
    with weights_in_reach(model):
        assert model.first.weight is model.second.weight
        assert model.head.weight is model.embed.weight
    for one in (plain, model):
        with pytest.raises(InvalidProblemError, match=r"no eligible layer.*shared"):
            tnn.adaprune(one, tokens, "2:4", skip_ends=False)
    assert torch.equal(model(tokens[0]), plain(tokens[0]))


def test_what_fails_leaves_offloaded_weights_as_they_were(tmp_path):
    model = offload(blocks(), "disk", tmp_path)
    expected = model(DATA[0])
    with pytest.raises(InvalidProblemError, match="NaN"):
        tnn.adaprune(model, [torch.full((4, 8), torch.nan)], "2:4", skip_ends=False)
    assert torch.equal(model(DATA[0]), expected)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloaded_weights_cannot_be_trained(where, tmp_path):
    model = offload(blocks(), where, tmp_path)
    with pytest.raises(InvalidProblemError, match=r"0\.0\.weight.* not in memory .*accelerate.*without offloading"):
        tnn.sparsify(model)


def test_weights_that_are_nowhere_are_refused_by_their_names():
    model = blocks().to("meta")
    for prune in (*PRUNERS.values(), tnn.prune_blocks):
        with pytest.raises(InvalidProblemError, match=r"0\.0\.weight.* not in memory"):
            prune(model, DATA, "2:4")

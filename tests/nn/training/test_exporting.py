import copy

import pytest
import safetensors.torch
import torch
from torch import nn

import tmask
from tests.nn.models import Attention, Tied, batch, mlp, train
from tmask import nn as tnn

MODELS = {
    "linear": mlp,
    "convolution": lambda: nn.Sequential(nn.Conv2d(8, 8, 3, groups=2), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)),
    "attention": Attention,
    "other keys": lambda: nn.MultiheadAttention(8, 2, kdim=12, vdim=16),
    "encoder": lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
    "tied": Tied,
    "bare": lambda: nn.Linear(8, 8),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_exported_model_has_the_dense_layout(name):
    torch.manual_seed(0)
    dense = MODELS[name]()
    model = copy.deepcopy(dense)
    parameters = list(model.parameters())
    sparsifier = tnn.sparsify(model)
    masks = {owner.name: layer.masked.mask for layer in sparsifier.layers for owner in layer.owners}
    assert tnn.export(model) is model
    assert list(model.state_dict()) == list(dense.state_dict())
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert [type(m) for m in model.modules()] == [type(m) for m in dense.modules()]
    for key, value in dense.state_dict().items():
        expected = torch.where(masks[key], value, 0) if key in masks else value
        assert torch.equal(model.state_dict()[key], expected), key
    copy.deepcopy(dense).load_state_dict(model.state_dict())


@pytest.mark.parametrize("name", MODELS)
def test_the_state_dict_for_export_leaves_the_model_alone(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    sparsifier = tnn.sparsify(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = tnn.export_state_dict(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(layer.masked is not None for layer in sparsifier.layers)
    exported = tnn.export(model).state_dict()
    assert state.keys() == exported.keys()
    assert all(torch.equal(state[key], value) for key, value in exported.items())


@pytest.mark.parametrize("name", MODELS)
def test_removing_undoes_sparsify(name):
    torch.manual_seed(0)
    dense = MODELS[name]()
    model = copy.deepcopy(dense)
    parameters = list(model.parameters())
    sparsifier = tnn.sparsify(model)
    sparsifier.remove()
    assert list(model.state_dict()) == list(dense.state_dict())
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), dense.state_dict().values(), strict=True))
    assert [type(m) for m in model.modules()] == [type(m) for m in dense.modules()]


def test_outputs_stay_the_same():
    model = mlp()
    tnn.sparsify(model, "4:8")
    x = batch((4, 8))
    before = model(x)
    assert torch.equal(tnn.export(model)(x), before)


def test_ties_survive_in_the_state_dict_for_export():
    model = Tied()
    tnn.sparsify(model)
    state = tnn.export_state_dict(model)
    assert state["first.weight"] is state["second.weight"]


def test_a_module_under_two_names_is_exported_under_both():
    model = nn.Sequential(*[nn.Linear(8, 8)] * 2)
    tnn.sparsify(model)
    state = tnn.export_state_dict(model)
    assert state.keys() == tnn.export(model).state_dict().keys() == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert state["0.weight"] is state["1.weight"]


def test_other_parametrizations_must_go_first():
    model = mlp()
    sparsifier = tnn.sparsify(model)
    nn.utils.parametrize.register_parametrization(model[0], "weight", nn.Identity())
    for call in (lambda: tnn.export(model), sparsifier.remove):
        with pytest.raises(tmask.InvalidProblemError, match=r"beside its mask \(Identity\); remove them first"):
            call()


def test_an_old_sparsifier_leaves_the_masks_of_a_new_one_alone():
    model = mlp()
    old = tnn.sparsify(model, schedule=tnn.Periodic(every=1))
    tnn.export(model)
    new = tnn.sparsify(model)
    old.remove()
    assert new.layers[0].masked is not None
    with pytest.raises(tmask.InvalidProblemError, match="has this mask no more"):
        old.step()


def test_a_model_without_masks_is_refused():
    model = mlp()
    for call in (tnn.export, tnn.export_state_dict):
        with pytest.raises(tmask.InvalidProblemError, match="never sparsified, or is exported already"):
            call(model)


def test_training_on_after_export_says_how_to_end():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsifier = tnn.sparsify(model, schedule=tnn.Periodic(every=1), optimizer=optimizer)
    weight = tnn.export(model)[0].weight.detach().clone()
    with pytest.raises(tmask.InvalidProblemError, match=r"layer '0.weight' has this mask no more.*sparsifier.remove"):
        train(model, optimizer, 1)
    sparsifier.remove()
    train(model, optimizer, 1)
    assert not torch.equal(model[0].weight, weight)


def test_training_on_after_export_under_frozen_masks_is_refused_before_a_zero_comes_back():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsifier = tnn.sparsify(model, optimizer=optimizer)
    zeros = tnn.export(model)[0].weight == 0
    with pytest.raises(tmask.InvalidProblemError, match=r"has this mask no more.*sparsify anew"):
        train(model, optimizer, 1)
    assert torch.equal(model[0].weight == 0, zeros)
    sparsifier.unwatch()
    with pytest.raises(tmask.InvalidProblemError, match="has this mask no more"):
        sparsifier.step()
    with pytest.raises(tmask.InvalidProblemError, match="has this mask no more"):
        sparsifier.watch(optimizer)
    assert sparsifier.steps == 0


def test_removing_takes_all_masks_off_or_none():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsifier = tnn.sparsify(model, optimizer=optimizer)
    nn.utils.parametrizations.spectral_norm(model[0])
    with pytest.raises(tmask.InvalidProblemError, match="_SpectralNorm"):
        sparsifier.remove()
    assert all(layer.masked is not None for layer in sparsifier.layers)
    train(model, optimizer, 1)
    assert sparsifier.steps == 1


def saved_and_loaded(state, path, form):
    if form == "torch":
        torch.save(state, path)
        return torch.load(path, weights_only=True)
    safetensors.torch.save_file(state, path)
    return safetensors.torch.load_file(path)


@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_a_sparsified_model_goes_through_a_file(form, tmp_path):
    model = mlp()
    tnn.sparsify(model)
    state = saved_and_loaded(model.state_dict(), tmp_path / "model", form)
    fresh = mlp(seed=1)
    tnn.sparsify(fresh)
    fresh.load_state_dict(state)
    x = batch((4, 8))
    assert torch.equal(fresh(x), model(x))


@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_an_exported_model_goes_through_a_file_into_a_plain_one(form, tmp_path):
    model = mlp()
    tnn.sparsify(model)
    plain = mlp(seed=1)
    plain.load_state_dict(saved_and_loaded(tnn.export_state_dict(model), tmp_path / "model", form))
    x = batch((4, 8))
    assert torch.equal(plain(x), model(x))


def test_exported_masks_are_certified():
    model = mlp()
    sparsifier = tnn.sparsify(model)
    state = tnn.export_state_dict(model)
    for layer in sparsifier.layers:
        assert tmask.certify(layer.weight, state[layer.name] != 0, "2:4").optimal


def test_a_checkpoint_of_another_pattern_is_refused():
    model, other = mlp(), mlp()
    tnn.sparsify(model, "2:4")
    tnn.sparsify(other, "4:8")
    with pytest.raises(tmask.InvalidProblemError, match=r"layer '0.weight'.*pattern 2:4, this model with 4:8"):
        other.load_state_dict(model.state_dict())

"""One layer has one name, wherever masks, patterns and reports go; a module's name is understood too."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import tmask
from tests.nn.pruning_models import conv_net, images, mlp, rows
from tmask.errors import InvalidProblemError
from tmask.files.masks import write_masks
from tmask.nn import (
    adaprune,
    collect_grams,
    convert,
    model_diversity,
    prune_blocks,
    reconstruct,
    reconstruction_losses,
    sparsegpt,
    sparsify,
)
from tmask.nn.pruning.pruned_masks import mask_records


@pytest.mark.parametrize("prune", [adaprune, sparsegpt])
def test_masks_of_a_pruning_go_into_training(prune):
    model = conv_net()
    report = prune(model, images(), "2:4")
    before = copy.deepcopy(model.state_dict())
    sparsifier = sparsify(model, "2:4", include=["conv1", "conv2"], masks=report.masks)
    assert [layer.name for layer in sparsifier.layers] == [row.layer for row in report.layers]
    for layer in sparsifier.layers:
        assert torch.equal(layer.masked.mask, report.masks[layer.name])
        assert torch.equal(layer.masked(layer.weight), before[layer.name])


def test_masks_of_blocks_go_into_training_and_reconstruction():
    model = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(2)))
    report = prune_blocks(model, rows(40, 8), "2:4")
    reconstruct(copy.deepcopy(model), rows(40, 8), report.masks)
    sparsify(model, "2:4", masks=report.masks)


@pytest.mark.parametrize("name", ["2", "2.weight"])
def test_either_name_is_taken_wherever_one_is(name):
    mask = tmask.solve(torch.rand(16, 16), "2:4").mask
    sparsifier = sparsify(mlp(), "2:4", masks={name: mask})
    assert torch.equal(next(la for la in sparsifier.layers if la.name == "2.weight").masked.mask, mask)
    for report in (
        adaprune(mlp(), rows(), "2:4", include=[name]),
        adaprune(mlp(), rows(), {name: "2:4"}),
        sparsegpt(mlp(), rows(), "2:4", exclude=["0" if name == "2" else "0.weight"]),
        reconstruct(mlp(), rows(), {name: mask}),
    ):
        assert [row.layer for row in report.layers] == [*report.masks] == ["2.weight"]
        assert report.masks[name] is report.masks["2.weight"]
        assert name in report.masks
        assert report.skipped.get(name, "") == ""
        assert "0" in report.skipped
    grams = collect_grams(mlp(), rows())
    assert grams[name] is grams["2.weight"]
    by_module = {key.removesuffix(".weight"): gram for key, gram in grams.items()}
    assert adaprune(mlp(), rows(), "2:4", sequential=False, grams=by_module).layers
    assert reconstruction_losses(mlp(), rows(), ["2:4"])[name]


def test_two_masks_for_one_layer_are_refused():
    mask = tmask.solve(torch.rand(16, 16), "2:4").mask
    with pytest.raises(InvalidProblemError, match=r"layer '2\.weight' is given two masks"):
        sparsify(mlp(), "2:4", masks={"2": mask, "2.weight": mask})


def test_a_mask_for_a_layer_that_gets_none_says_why():
    mask = tmask.solve(torch.rand(16, 16), "2:4").mask
    with pytest.raises(InvalidProblemError, match=r"masks for 2\.weight: .*excluded"):
        sparsify(mlp(), "2:4", exclude=["2"], masks={"2.weight": mask})


def test_masks_in_a_file_are_read_and_trained_on(tmp_path):
    model = mlp()
    report = adaprune(model, rows(), "2:4")
    write_masks(tmp_path / "masks.safetensors", mask_records(model, report))
    records = tmask.read_masks(tmp_path / "masks.safetensors")
    assert records.keys() == report.masks.keys()
    assert all(torch.equal(torch.from_numpy(records[name].mask), mask) for name, mask in report.masks.items())
    sparsifier = sparsify(copy.deepcopy(model), "2:4", masks=records)
    assert torch.equal(sparsifier.layers[0].masked.mask, report.masks["0"])
    reconstruct(model, rows(), records)


def test_names_of_a_conversion():
    model = mlp()
    with torch.no_grad():
        model[0].weight[torch.rand(16, 16) < 0.8] = 0
    report = convert(model, rows(), m=4)
    assert "2.weight" in report.fits
    assert report.fits["0"] is report.fits["0.weight"]


def test_names_of_diversity():
    found = model_diversity(mlp(), "2:4")
    assert [*found] == ["0.weight", "2.weight", "4.weight"]
    assert found["2"] is found["2.weight"]
    assert "0" in found
    assert [*model_diversity(nn.Linear(16, 16), "2:4")] == ["weight"]


def test_a_model_that_is_one_layer():
    report = adaprune(nn.Linear(16, 16), rows(), "2:4", include=["weight"])
    assert [*report.masks] == ["weight"]
    assert report.masks[""] is report.masks["weight"]

"""`keep_zeros` in pruning: what is 0 stays 0, whichever function prunes, and lines keep at most n."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import tmask
from tests.nn.pruning_models import conv_net, images, mlp, rows
from tmask.files.masks import write_masks
from tmask.nn import (
    adaprune,
    available_methods,
    convert,
    get_method,
    prune_blocks,
    reconstruction_losses,
    sparsegpt,
    sparsify,
)
from tmask.nn.methods.problem import Problem
from tmask.nn.methods.support import Plain, Transposable, Unstructured, Within
from tmask.nn.pruning.pruned_masks import mask_records


def sparse(model, share=0.7):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter[torch.rand(parameter.shape, generator=generator) < share] = 0
    return model


WAYS = {
    "adaprune": adaprune,
    "adaprune with obs": lambda *args, **named: adaprune(*args, score="obs", **named),
    "adaprune, folded only": lambda *args, **named: adaprune(*args, method="none", **named),
    "adaprune by Adam": lambda *args, **named: adaprune(*args, method="adam", steps=20, **named),
    "sparsegpt": sparsegpt,
    "sparsegpt without a refit": lambda *args, **named: sparsegpt(*args, refit=False, **named),
}


@pytest.mark.parametrize("transposable", [True, False])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [(conv_net, images), (mlp, rows)])
def test_no_zero_comes_back(make, way, transposable):
    model, data = sparse(make[0]()), make[1]()
    dense = copy.deepcopy(model)
    revived = WAYS[way](copy.deepcopy(model), data, "2:4", transposable=transposable)
    assert any((mask & (dense.get_parameter(name) == 0)).any() for name, mask in revived.masks.items())
    report = WAYS[way](model, data, "2:4", transposable=transposable, keep_zeros=True)
    assert [*report.masks] == [*revived.masks]
    for row in report.layers:
        zero = dense.get_parameter(row.layer) == 0
        assert not report.masks[row.layer][zero].any()
        assert not model.get_parameter(row.layer)[zero].any()
        assert model.get_parameter(row.layer).any()
        if transposable:
            groups = getattr(model.get_submodule(row.layer.removesuffix(".weight")), "groups", 1)
            tmask.check_mask(report.masks[row.layer], "2:4", groups=groups, at_most=True)
            assert row.optimality_gap == pytest.approx(0, abs=1e-9)


def test_losses_and_conversion():
    model = sparse(mlp())
    with_zeros = reconstruction_losses(model, rows(), ["2:4"], keep_zeros=True)
    without = reconstruction_losses(model, rows(), ["2:4"])
    assert with_zeros["2"] != without["2"]
    zeros = {name: p == 0 for name, p in model.named_parameters()}
    report = convert(model, rows(), m=4, keep_zeros=True)
    for name, mask in report.pruning.masks.items():
        assert not mask[zeros[name]].any()


@pytest.mark.parametrize("kind", ["transposable", "plain", "unstructured"])
@pytest.mark.parametrize("name", available_methods())
def test_every_method_for_language_models(name, kind):
    pattern = 0.5 if kind == "unstructured" else "2:4"
    model = sparse(nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16)) for _ in range(2))))
    zeros = {key: p == 0 for key, p in model.named_parameters() if p.ndim > 1}
    report = prune_blocks(model, rows(), pattern, method=name, transposable=kind == "transposable", keep_zeros=True)
    for key, mask in report.masks.items():
        assert not mask[zeros[key]].any()
        assert not model.get_parameter(key)[zeros[key]].any()
        if kind == "transposable":
            tmask.check_mask(mask, "2:4", at_most=True)


@pytest.mark.parametrize("masks", ["as-it-goes", "up-front"])
@pytest.mark.parametrize("support", [Transposable("2:4"), Plain("2:4"), Unstructured(0.5)])
def test_methods_on_a_problem(support, masks):
    weight = sparse(nn.Linear(16, 16)).weight.detach().double()
    x = torch.cat(rows()).double()
    problem = Problem(weight, x.T @ x / len(x), None, Within(support, weight != 0))
    done = get_method("sparsegpt", masks=masks).prune(problem)
    assert not done.mask[weight == 0].any()
    assert not done.weight[weight == 0].any()


def test_masks_in_files_and_in_training(tmp_path):
    model = sparse(mlp())
    report = adaprune(model, rows(), "2:4", keep_zeros=True)
    write_masks(tmp_path / "masks.safetensors", mask_records(model, report, keep_zeros=True))
    records = tmask.read_masks(tmp_path / "masks.safetensors")
    assert all(record.at_most and record.status == "optimal" for record in records.values())
    sparsifier = sparsify(model, "2:4", masks=records, keep_zeros=True)
    assert torch.equal(sparsifier.layers[0].masked.mask, report.masks["0"])

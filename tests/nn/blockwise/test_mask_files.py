"""Masks beside a pruned model: what `tmask check` and `sparsify` make of them."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("transformers")

from transformers import AutoModelForCausalLM

from tests.cli.harness import run
from tests.nn.blockwise.test_directory import DATA, prune, saved, tensors  # noqa: F401
from tmask.cli.exit_codes import Code
from tmask.files.masks import read_masks
from tmask.nn import export, prune_blocks, sparsify
from tmask.nn.blockwise.memory.masks import PackedMasks


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_the_mask_file_is_true_of_the_pruned_model(saved, tmp_path, name):  # noqa: F811
    path, out = saved(name, dtype=torch.bfloat16), tmp_path / "out"
    report = prune(path, out)
    records, own = read_masks(out / "tmask/masks.safetensors"), tensors(out)
    assert not (out / "tmask/masks.npz").exists()
    for key, record in records.items():
        assert ((own[key] != 0).numpy() <= record.mask).all()
        assert record.mask.mean() == 0.5
    assert sum(record.mask.size for record in records.values()) == sum(mask.numel() for mask in report.masks.values())
    result = json.loads(run("check", str(out / "tmask/masks.safetensors"), str(out), "--json").stdout)
    assert {row["verdict"] for row in result["layers"]} == {"optimal"}
    assert "Wanda(" in next(iter(records.values())).job


def test_a_changed_weight_is_seen(saved, tmp_path):  # noqa: F811
    path, out = saved(), tmp_path / "out"
    prune(path, out)
    result = run("check", str(out / "tmask/masks.safetensors"), str(path), "--json", code=Code.CHECK_FAILED)
    assert "made for other weights" in result.stdout


def test_masks_with_short_lines_say_so(saved, tmp_path):  # noqa: F811
    path, out = saved(), tmp_path / "out"
    prune(path, out, solver="greedy-keep")
    assert "underfilled" in {record.status for record in read_masks(out / "tmask/masks.safetensors").values()}


@pytest.mark.parametrize("name", ["llama", "gpt_oss"])
def test_other_masks_stand_beside(saved, tmp_path, name):  # noqa: F811
    """Plain ones, and those of stacks that the files hold as stacks."""
    path, out = saved(name), tmp_path / "out"
    report = prune(path, out, transposable=name != "llama")
    others = PackedMasks.load(out / "tmask/masks.npz")
    assert all(torch.equal(others[key], report.masks[key]) for key in others)
    assert (out / "tmask/masks.safetensors").exists() == (name == "gpt_oss")
    known = {} if name == "llama" else read_masks(out / "tmask/masks.safetensors")
    assert report.masks.keys() == others.keys() | known.keys()


@pytest.mark.parametrize("source", ["report", "file"])
def test_training_goes_on_with_frozen_masks(saved, tmp_path, source):  # noqa: F811
    path, out = saved(), tmp_path / "out"
    report = prune(path, out)
    records = read_masks(out / "tmask/masks.safetensors")
    masks = report.masks if source == "report" else {name: record.mask for name, record in records.items()}
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    before = {name: model.get_parameter(name).detach().clone() for name in masks}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sparsify(model, "2:4", optimizer=optimizer, masks=masks, include=list(masks))
    for _ in range(2):
        ids = DATA[0]["input_ids"]
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sparsifier.steps == 2
    export(model)
    for name, mask in masks.items():
        now, kept = model.get_parameter(name).detach(), torch.as_tensor(mask)
        assert bool((now[~kept] == 0).all())
        assert not torch.equal(now, before[name])


def test_a_model_in_memory_gives_masks_that_training_takes(saved):  # noqa: F811
    model = AutoModelForCausalLM.from_pretrained(saved(), dtype=torch.float32)
    report = prune_blocks(model, DATA, "2:4", method="wanda")
    assert len(sparsify(model, "2:4", masks=report.masks, include=list(report.masks)).layers) == 14

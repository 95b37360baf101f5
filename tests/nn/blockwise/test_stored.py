"""Models whose files have other names than their modules: experts one by one where the module has them in a stack."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from transformers import AutoModelForCausalLM

from tests.nn.blockwise.test_directory import DATA, Stop, contents, prune, saved, stop_at, tensors  # noqa: F401
from tests.nn.blockwise.tiny_models import make
from tmask.files.opening import open_weights
from tmask.nn import prune_blocks
from tmask.nn.blockwise.skeleton import skeleton
from tmask.nn.blockwise.stored import stored_parts

EXPERTS = ["mixtral", "qwen2_moe", "qwen3_moe"]


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_are_read_and_written_one_by_one(saved, tmp_path, name):  # noqa: F811
    path = saved(name)
    before = tensors(path)
    assert any(".experts.3." in stored for stored in before)  # else this tests nothing
    model = make(name, torch.float32)
    expected = prune_blocks(model, DATA, "2:4", method="wanda")
    report = prune(path, tmp_path / "out")
    assert [(row.name, row.error) for row in report.rows] == [(row.name, row.error) for row in expected.rows]
    after = tensors(tmp_path / "out")
    assert {key: (value.dtype, value.shape) for key, value in after.items()} == {
        key: (value.dtype, value.shape) for key, value in before.items()
    }
    assert all(float((value == 0).float().mean()) == 0.5 for key, value in after.items() if ".experts." in key)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_experts_of_a_run_that_was_stopped(saved, tmp_path):  # noqa: F811
    path = saved("mixtral", dtype=torch.bfloat16)
    prune(path, tmp_path / "whole", dtype=torch.float32)
    with pytest.raises(Stop):
        prune(path, tmp_path / "out", dtype=torch.float32, progress=stop_at(1))
    prune(path, tmp_path / "out", dtype=torch.float32)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_parts_are_what_the_files_hold(saved):  # noqa: F811
    path = saved("mixtral", shard="1GB")
    file, held = open_weights(path / "model.safetensors"), tensors(path)
    parts = stored_parts(skeleton(path), file, "model.layers")
    own = make("mixtral", torch.float32).state_dict()
    assert sorted(part.name for each in parts.values() for part in each) == sorted(held)
    assert len(parts["model.layers.0.mlp.experts.gate_up_proj"]) == 8
    for name, each in parts.items():
        for part in each:
            assert torch.equal(part.of(own[name]), held[part.name]), part.name

"""Shards solved one by one and merged: the masks of a single run, and nothing that is missing or foreign."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.harness import TENSORS, one_line, run, solve
from tmask.files.masks import read_masks


def merge(weights, *args, code=0):
    return run("merge", weights.parent / "masks.safetensors", weights, *args, code=code)


@pytest.fixture
def shards(weights):
    for index in (1, 2, 3):
        solve(weights, "--shard", f"{index}/3")
    return [weights.parent / f"masks-0000{index}-of-00003.safetensors" for index in (1, 2, 3)]


def test_merged_shards_hold_the_masks_of_a_single_run(weights, shards):
    merge(weights)
    index = json.loads((weights.parent / "masks.safetensors.index.json").read_text())
    solve(weights, name="whole.safetensors")
    whole = read_masks(weights.parent / "whole.safetensors")
    assert index["weight_map"].keys() == whole.keys()
    for name, file in index["weight_map"].items():
        record = read_masks(weights.parent / file)[name]
        np.testing.assert_array_equal(record.mask, whole[name].mask)
        assert (record.objective, record.weights_sha256) == (whole[name].objective, whole[name].weights_sha256)


def test_more_shards_than_layers_are_bands(weights):
    for index in range(1, 6):
        solve(weights, "--shard", f"{index}/5")
    merge(weights)
    solve(weights, name="whole.safetensors")
    whole = read_masks(weights.parent / "whole.safetensors")
    index = weights.parent / "masks.safetensors.index.json"
    for path in index, index.parent:
        records = read_masks(path)
        assert records.keys() == whole.keys()
        for name, record in records.items():
            np.testing.assert_array_equal(record.packed.bits, whole[name].packed.bits)
            assert record.weights_sha256 == whole[name].weights_sha256
    assert '"ok": true' in run("check", index, weights, "--json").stdout
    save_file({name: tensor + 1 for name, tensor in TENSORS.items()}, weights)
    assert "other weights" in run("check", index, weights, code=1).stderr


def test_shards_of_zeros_kept_are_merged(weights):
    for index in (1, 2):
        solve(weights, "--keep-zeros", "--shard", f"{index}/2")
    merge(weights)


def test_a_missing_shard_is_named_and_running_it_again_is_all_it_takes(weights, shards):
    shards[1].unlink()
    stderr = one_line(merge(weights, code=2).stderr)
    assert "missing: masks-00002-of-00003.safetensors" in stderr
    assert "--shard 2/3" in stderr
    solve(weights, "--shard", "2/3")
    merge(weights)


def test_an_interrupted_shard_goes_on(weights, interrupt_after):
    interrupt_after(1)
    solve(weights, "--shard", "2/2", code=130)
    interrupt_after(None)
    assert "resumed: 1 of 2" in solve(weights, "--shard", "2/2").stderr
    solve(weights, "--shard", "1/2")
    merge(weights)


def test_foreign_shards_are_named(weights, shards):
    solve(weights, "--shard", "2/3", "--solver", "patterns", "--overwrite")
    assert "masks-00002-of-00003" in one_line(merge(weights, code=2).stderr)
    solve(weights, "--shard", "2/3", "--overwrite")
    solve(weights, "--shard", "1/2")
    assert "of 2: masks-00001-of-00002" in one_line(merge(weights, code=2).stderr)


def test_a_proof_that_fails_is_exit_code_1_and_leaves_no_index(weights, shards):
    data = bytearray(shards[0].read_bytes())
    data[-1] ^= 1
    shards[0].write_bytes(data)
    assert "masks-00001-of-00003" in merge(weights, code=1).stderr
    assert not (weights.parent / "masks.safetensors.index.json").exists()


def test_the_place_comes_from_the_launcher(weights, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert "shard 2 of 3" in solve(weights).stderr
    assert (weights.parent / "masks-00002-of-00003.safetensors").exists()
    solve(weights, "--shard", "1/1")
    assert len(read_masks(weights.parent / "masks.safetensors")) == 3

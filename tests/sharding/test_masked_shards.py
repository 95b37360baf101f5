"""Masked weights written by shards: together the model that a single run writes."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tmask
from tests.cli.harness import one_line, run
from tmask.files.opening import open_weights

RNG = np.random.default_rng(0)
TENSORS = {
    "embed.weight": RNG.standard_normal((20, 8)).astype(np.float32),
    "layers.0.weight": -np.abs(RNG.standard_normal((40, 24))).astype(np.float32),
    "layers.0.bias": RNG.standard_normal(40).astype(np.float32),
    "layers.1.weight": RNG.standard_normal((9, 24)).astype(np.float16),
    "steps": np.arange(5),
}


@pytest.fixture
def model(tmp_path):
    """A model's folder."""
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(TENSORS, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "test"}')
    return folder


@pytest.fixture
def whole(model):
    """The masked tensors of a single run."""
    path = model.parent / "whole.safetensors"
    tmask.solve_file(model, "2:4", model.parent / "whole-masks.safetensors", masked_weights=path)
    return load_file(path)


def solve(model, *args, code=0):
    return run("solve", model, "-p", "2:4", "-o", model.parent / "m.safetensors",
               "--masked-weights", f"{model.parent}/out/", *args, code=code)  # fmt: skip


def merge(model, *args, code=0):
    return run("merge", model.parent / "m.safetensors", model, "--masked-weights", f"{model.parent}/out/", *args,
               code=code)  # fmt: skip


def same(folder, whole):
    source = open_weights(folder)
    assert set(source.names) == TENSORS.keys()
    for name, expected in whole.items():
        tensor = source.read(name)
        assert tensor.dtype == expected.dtype.name
        assert tensor.bits.tobytes() == expected.tobytes()  # +0.0 and -0.0 differ here
    assert json.loads((folder / "config.json").read_text()) == {"model_type": "test"}
    total = json.loads((folder / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
    assert total == sum(tensor.nbytes for tensor in TENSORS.values())


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_and_merge_write_the_model_of_a_single_run(model, whole, count):
    assert not np.signbit(whole["layers.0.weight"][whole["layers.0.weight"] == 0]).any()
    for index in range(1, count + 1):
        solve(model, "--shard", f"{index}/{count}")
    if count > 1:
        assert not list((model.parent / "out").glob("*.json"))  # not a model yet
        merge(model)
        same(model.parent / "out", whole)
        names = {f"model-{index:05}-of-{count:05}.safetensors" for index in range(1, count + 1)}
        assert {path.name for path in (model.parent / "out").glob("model-0*")} == names


@pytest.mark.parametrize("shards", [2, 5])
@pytest.mark.parametrize("named", ["", "model.safetensors"])
def test_from_python(model, whole, shards, named):
    pytest.importorskip("joblib")
    folder = model.parent / "made"
    tmask.solve_file(model / named, "2:4", model.parent / "m.safetensors", shards=shards, backend="threading",
                     masked_weights=folder)  # fmt: skip
    same(folder, whole)


def test_weights_of_other_masks_and_missing_ones_are_found(model):
    for index in (1, 2):
        solve(model, "--shard", f"{index}/2")
    shards = sorted((model.parent / "out").glob("model-*"))
    kept = shards[0].read_bytes()
    tensors = load_file(shards[0])
    name = next(iter(tensors))
    for changed in (
        tensors | {name: tensors[name] + 1},
        {other: tensor for other, tensor in tensors.items() if other != name},
        tensors | {"more": np.zeros(2)},
    ):
        save_file(changed, shards[0])
        assert "run" in one_line(merge(model, code=2).stderr)
        assert not (model.parent / "m.safetensors.index.json").exists()
    shards[0].unlink()
    assert "missing: model-00001-of-00002.safetensors" in one_line(merge(model, code=2).stderr)
    shards[0].write_bytes(kept)
    merge(model)


def test_what_cannot_be_written_is_said_before_any_work(model):
    for folder, says in ((f"{model.parent}/out.safetensors", "to a folder"), (f"{model}/", "that is read"),
                         (f"{model.parent}/a/b/", "create it first")):  # fmt: skip
        result = run("solve", model, "-p", "2:4", "-o", model.parent / "m.safetensors", "--shard", "1/2",
                     "--masked-weights", folder, code=None)  # fmt: skip
        assert says in one_line(result.stderr)
    solve(model, "--shard", "1/2")
    (model.parent / "m-00001-of-00002.safetensors").unlink()
    assert "exists already" in one_line(solve(model, "--shard", "1/2", code=None).stderr)
    solve(model, "--shard", "1/2", "--overwrite")

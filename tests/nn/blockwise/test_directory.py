"""Directories: the same weights as in memory, the same files but for them, and runs that end early."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file

from tests.nn.blockwise.tiny_models import make, tokens
from tmask.errors import FileFormatError, InvalidProblemError, OutputError
from tmask.files.masks import read_masks
from tmask.nn import prune_blocks
from tmask.nn.blockwise.skeleton import skeleton
from tmask.nn.calibration.language_models import load_language_model

DATA = [{"input_ids": batch["input_ids"]} for batch in tokens(2)]


@pytest.fixture
def saved(tmp_path):
    """A model in a directory: `saved(name, dtype)`."""

    def save(name="llama", dtype=torch.float32, shard="6KB", **settings):
        path = tmp_path / "model"
        make(name, dtype, **settings).save_pretrained(path, max_shard_size=shard)
        (path / "tokenizer.json").write_text("{}")
        (path / "pytorch_model.bin").write_text("other weights")
        return path

    return save


def prune(path, out, **settings):
    return prune_blocks(path, DATA, "2:4", output=out, **{"method": "wanda"} | settings)


def contents(path):
    """The bytes of all files, but for the times in the report."""
    found = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    report = json.loads(found.pop("tmask/report.json"))
    for row in report["matrices"]:
        del row["seconds"]
    del report["seconds"]
    found["tmask/masks.safetensors"] = [
        (record.name, record.mask.tobytes(), record.weights_sha256, record.status, record.solver)
        for record in read_masks(path / "tmask/masks.safetensors").values()
    ]
    return found, report


def tensors(path):
    return {name: value for file in sorted(path.glob("*.safetensors")) for name, value in load_file(file).items()}


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2", "gpt_oss"])
def test_the_weights_are_those_of_the_model_in_memory(saved, tmp_path, name):
    path = saved(name)
    model = make(name, torch.float32)
    expected = prune_blocks(model, DATA, "2:4", method="wanda")
    report = prune(path, tmp_path / "out")
    own = model.state_dict()
    for key, value in tensors(tmp_path / "out").items():
        stored = own[key] if key in own else own[f"{model.base_model_prefix}.{key}"]
        assert torch.equal(value, stored), key
    assert [row.error for row in report.rows] == [row.error for row in expected.rows]
    assert report.skipped == expected.skipped
    assert all(torch.equal(report.masks[key], expected.masks[key]) for key in expected.masks)


def test_files_keep_their_form(saved, tmp_path):
    path, out = saved(dtype=torch.bfloat16), tmp_path / "out"
    prune(path, out)
    assert len([*out.glob("*.safetensors")]) > 1
    for file in path.iterdir():
        if file.suffix == ".safetensors":
            before, after = load_file(file), load_file(out / file.name)
            assert file.stat().st_size == (out / file.name).stat().st_size
            assert [(k, v.dtype, v.shape) for k, v in before.items()] == [
                (k, v.dtype, v.shape) for k, v in after.items()
            ]
        elif file.suffix != ".bin":
            assert (out / file.name).read_bytes() == file.read_bytes()
    assert not (out / "pytorch_model.bin").exists()
    assert sorted(file.name for file in (out / "tmask").iterdir()) == [
        "masks.safetensors",
        "report.json",
    ]
    assert not (tmp_path / "out.partial").exists()


class Stop(Exception):
    pass


def stop_at(block):
    def progress(done, count, name):
        if done == block:
            raise Stop

    return progress


@pytest.mark.parametrize("goal", ["dense", "layer"])
def test_a_run_that_was_stopped_goes_on(saved, tmp_path, goal):
    path = saved(dtype=torch.bfloat16, num_hidden_layers=3)
    settings = {"goal": goal, "dtype": torch.float32}  # finer than the files, to which weights are rounded
    journal = tmp_path / "out.partial/tmask/progress.jsonl"
    prune(path, tmp_path / "whole", **settings)
    for block in (1, 2):
        with pytest.raises(Stop):
            prune(path, tmp_path / "out", **settings, progress=stop_at(block))
        assert not (tmp_path / "out").exists()
        assert [json.loads(line)["block"] for line in journal.read_text().splitlines()[1:]] == [*range(block)]
        with journal.open("a") as file:
            file.write('{"block": 7, "ro')  # a line that was cut off
    prune(path, tmp_path / "out", **settings, memory=0)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_run_that_was_killed_goes_on(saved, tmp_path):
    path = saved()
    prune(path, tmp_path / "whole")
    code = (
        "import os, signal\n"
        "from tests.nn.blockwise.test_directory import prune\n"
        "def progress(done, count, name):\n"
        "    if done == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"prune({str(path)!r}, {str(tmp_path / 'out')!r}, progress=progress)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], env=os.environ, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    prune(path, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_unfinished_run_is_continued_by_the_same_job_alone(saved, tmp_path):
    path, out = saved(), tmp_path / "out"
    with pytest.raises(Stop):
        prune(path, out, progress=stop_at(1))
    with pytest.raises(OutputError, match="unfinished run with other settings"):
        prune(path, out, goal="layer")
    with pytest.raises(OutputError, match="unfinished run with other settings"):
        prune_blocks(path, DATA[:1], "2:4", output=out, method="wanda")
    os.utime(path / "config.json", (1, 1))
    with pytest.raises(OutputError, match="unfinished run with other settings"):
        prune(path, out)


def change(path, edit):
    """Edit the tensors of the shards."""
    for file in path.glob("*.safetensors"):
        held = load_file(file)
        edit(held)
        save_file(held, file)


def test_bad_directories(saved, tmp_path):
    path, out = saved(), tmp_path / "out"
    name = "model.layers.1.mlp.up_proj.weight"

    def edit_config(**settings):
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | settings))

    def spoil(held):
        if name in held:
            held[name][0, 0] = float("nan")

    def refused(error, text):
        with pytest.raises(error, match=text):
            prune(path, out)
        assert not out.exists()
        shutil.rmtree(tmp_path / "out.partial", ignore_errors=True)
        shutil.rmtree(path)
        saved()

    out.mkdir()
    with pytest.raises(OutputError, match="exists already"):
        prune(path, out)
    out.rmdir()
    with pytest.raises(InvalidProblemError, match="give output="):
        prune_blocks(path, DATA, "2:4")
    change(path, spoil)
    refused(InvalidProblemError, f"^{name} holds NaN.*the 1 blocks before")
    min(path.glob("*.safetensors")).unlink()
    refused(FileFormatError, "is missing")
    edit_config(quantization_config={"quant_method": "gptq", "bits": 4})
    refused(InvalidProblemError, "quantised model")
    edit_config(model_type="nothing-of-the-sort")
    refused(FileFormatError, "makes no language model")
    edit_config(intermediate_size=32)
    refused(InvalidProblemError, "holds no tensor for model.layers.0.mlp.gate_proj.weight")
    (path / "config.json").unlink()
    refused(FileFormatError, "no config.json")


def test_an_embedding_that_no_file_holds(saved, tmp_path):
    path = saved(shard="1GB")
    change(path, lambda held: held.pop("model.embed_tokens.weight"))
    with pytest.raises(InvalidProblemError, match=r"no tensor for model.embed_tokens.weight"):
        prune(path, tmp_path / "out")


def test_tied_embeddings(saved, tmp_path):
    path = saved(tie_word_embeddings=True)
    assert "lm_head.weight" not in tensors(path)
    prune(path, tmp_path / "out")
    assert (tensors(tmp_path / "out")["model.layers.0.mlp.up_proj.weight"] == 0).float().mean() == 0.5


def test_a_model_stored_in_another_form_is_refused_by_name(saved, tmp_path):
    path = saved("mixtral", shard="1GB")
    change(path, lambda held: held.pop("model.layers.0.block_sparse_moe.experts.1.w2.weight"))
    with pytest.raises(InvalidProblemError, match=r"no tensor for model.layers.0.mlp.experts.down_proj .*from_pretr"):
        prune(path, tmp_path / "out")


def test_code_that_comes_with_a_model_is_neither_run_nor_asked_about(tmp_path, monkeypatch):
    folder = tmp_path / "strange"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "strange", "auto_map": {"AutoConfig": "own.Config"}}))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'was run')!r}, 'w')\nclass Config: pass\n")
    asked = []
    monkeypatch.setattr("builtins.input", lambda *text: asked.append(text) or "y")
    for load in (lambda: skeleton(folder), lambda: load_language_model(folder, torch.float32, "cpu")):
        with pytest.raises(FileFormatError, match="brings code of its own, which is not run"):
            load()
    assert not asked
    assert not (tmp_path / "was run").exists()

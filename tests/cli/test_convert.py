"""`tmask convert`: files in every form, its report, and what it refuses."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tmask
from tests.cli.harness import one_line, run
from tests.cli.pruned_network import language, network, sparse_network
from tmask.cli.exit_codes import Code
from tmask.files.masks import read_masks

BUILD = ("--model", "tests.cli.pruned_network:network", "--side", "4")


@pytest.fixture
def folder(tmp_path):
    """A sparse model as a state dict and whole, and inputs in several formats."""
    model = sparse_network()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    torch.save(model.state_dict(), tmp_path / "state.pt")
    torch.save(model, tmp_path / "whole.pt")
    inputs = torch.randn(300, 16, generator=torch.Generator().manual_seed(2))
    np.save(tmp_path / "inputs.npy", inputs.numpy().astype(np.float64))
    np.savez(tmp_path / "inputs.npz", x=inputs.numpy(), y=np.zeros(300))
    torch.save(inputs, tmp_path / "inputs.pt")
    save_file({"x": inputs}, tmp_path / "inputs.safetensors")
    return tmp_path


def load(path):
    """The model of an output file."""
    if path.name == "whole_out.pt":
        return torch.load(path, weights_only=False)
    state = load_file(path) if path.suffix == ".safetensors" else torch.load(path)
    model = network()
    model.load_state_dict(state)
    return model.eval()


FORMS = [
    ("model.safetensors", "inputs.npy", "out.safetensors", BUILD),
    ("state.pt", "inputs.npz", "out.pt", (*BUILD, "--key", "x")),
    ("model.safetensors", "inputs.pt", "out.pt", BUILD),
    ("whole.pt", "inputs.safetensors", "whole_out.pt", ("--trust", "--side", "4")),
    ("whole.pt", "inputs.safetensors", "out.safetensors", ("--trust", "--side", "4")),
]


@pytest.mark.parametrize(("model", "inputs", "output", "arguments"), FORMS)
def test_files_of_every_form(folder, model, inputs, output, arguments):
    run(
        "convert", folder / model, folder / inputs, "-o", folder / output, "--batch", "50", "--exclude", "4", *arguments
    )
    converted = load(folder / output)
    # 60 % zeros: P(1)^2 = 0.95 and P(2)^2 = 0.67 of tiles with 4 inputs.
    tmask.check_mask(converted[2].weight != 0, "3:4")
    # Outputs of the first layer that lose nothing keep the zeros that the mask would let them fill.
    tiles = (converted[0].weight != 0).reshape(8, 4, 4, 4)
    assert tiles.sum(1).max() == tiles.sum(3).max() == 3
    before = sparse_network()
    assert torch.equal(converted[4].weight, before[4].weight)
    assert not torch.equal(converted[3].running_mean, before[3].running_mean)


def test_all_forms_give_the_same_model(folder):
    found = []
    for model, inputs, output, arguments in FORMS:
        run("convert", folder / model, folder / inputs, "-o", folder / output, *arguments, "--overwrite")
        found.append(load(folder / output)[2].weight)
    for weight in found[1:]:
        torch.testing.assert_close(weight, found[0])


def test_json_csv_and_options(folder):
    arguments = (*BUILD, "--plain", "--confidence", "0.7", "--method", "none", "--independent", "--samples", "40")
    outputs = ("-o", folder / "out.pt", "--csv", folder / "rows.csv", "--json")
    result = run("convert", folder / "model.safetensors", folder / "inputs.npy", *arguments, *outputs)
    document = json.loads(result.stdout)
    assert document["skipped"] == {"4.weight": "the classifier (include it to prune it)"}
    assert document["batch_norms"] == 1
    assert [row["layer"] for row in document["layers"]] == ["0.weight", "2.weight"]
    for row in document["layers"]:
        assert (row["pattern"], row["samples"], row["transposable"]) == ("2:4", 40, False)
        assert row["zeros"] == pytest.approx(0.6, abs=0.05)
        assert row["expected"] > 0.7
        assert row["observed"] == pytest.approx(row["expected"], abs=0.1)
    with (folder / "rows.csv").open() as file:
        assert [row["layer"] for row in csv.DictReader(file)] == ["0.weight", "2.weight"]


def test_the_table(folder):
    result = run("convert", folder / "model.safetensors", folder / "inputs.npy", "-o", folder / "out.pt", *BUILD)
    for text in ("zeros", "observed fit", "error, refitted", "3:4"):
        assert text in result.stdout
    assert "1 stay as they were: the classifier (include it to prune it): 4.weight" in one_line(result.stderr)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("solver", ["auto", "greedy-keep"])
def test_masks_are_written_for_the_weights_of_the_output(folder, whole, solver):
    """Some kept weights can be exactly 0, so that the weights alone do not tell the masks."""
    model, arguments = ("whole.pt", ("--trust", "--side", "4")) if whole else ("model.safetensors", BUILD)
    outputs = ("-o", folder / "out.safetensors", "--masks", folder / "masks.safetensors")
    run("convert", folder / model, folder / "inputs.npy", *outputs, *arguments, "--solver", solver)
    records = read_masks(folder / "masks.safetensors")
    assert set(records) == {"0.weight", "2.weight"}
    weights = load_file(folder / "out.safetensors")
    for name, record in records.items():
        assert not weights[name].numpy()[~record.mask].any()
        assert str(record.pattern) == "3:4"
        assert solver in ("auto", record.solver)
        assert record.objective == pytest.approx(float(weights[name].abs().sum()))
    code, verdict = (0, "optimal") if solver == "auto" else (Code.CHECK_FAILED, "underfilled")
    checked = run("check", folder / "masks.safetensors", folder / "out.safetensors", code=code)
    assert checked.stdout.count(verdict) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tensors_keep_the_dtype_of_the_file(folder, dtype):
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in sparse_network().state_dict().items()}
    save_file(state, folder / "half.safetensors")
    outputs = ("-o", folder / "out.safetensors", "--masks", folder / "masks.safetensors")
    run("convert", folder / "half.safetensors", folder / "inputs.npy", *outputs, *BUILD)
    converted = load_file(folder / "out.safetensors")
    assert {name: t.dtype for name, t in converted.items()} == {name: t.dtype for name, t in state.items()}
    tmask.check_mask(tmask.read_masks(folder / "masks.safetensors")["2.weight"].mask, "3:4")
    tmask.check_mask(converted["2.weight"] != 0, "3:4", at_most=True)  # a kept weight may be 0, and stay it
    run("check", folder / "masks.safetensors", folder / "out.safetensors")


def test_a_language_model_with_tied_weights_stored_once(folder):
    model = language()
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "head.weight"}
    save_file(state, folder / "language.safetensors")
    np.save(folder / "ids.npy", np.random.default_rng(0).integers(0, 40, (50, 12)).astype(np.int32))
    build = ("--model", "tests.cli.pruned_network:language", "--side", "4")
    run("convert", folder / "language.safetensors", folder / "ids.npy", "-o", folder / "out.safetensors", *build)
    converted = load_file(folder / "out.safetensors")
    assert not torch.equal(converted["a.weight"], state["a.weight"])
    for name in ("tokens.weight", "head.weight"):
        assert torch.equal(converted[name], state["tokens.weight"])
    del state["b.bias"]
    save_file(state, folder / "language.safetensors")
    outputs = ("-o", folder / "none.safetensors")
    result = run("convert", folder / "language.safetensors", folder / "ids.npy", *outputs, *build, code=2)
    assert "the file lacks b.bias" in one_line(result.stderr)


REFUSED = [
    ("model.safetensors", "inputs.npy", (), 2, "give --model module:function"),
    ("whole.pt", "inputs.npy", (), 2, "--trust (loading one can run code"),
    ("state.pt", "inputs.npy", ("--trust",), 2, "holds a OrderedDict, not a module"),
    ("inputs.npy", "inputs.npy", ("--trust",), 2, "is no complete torch file of a module"),
    ("none.pt", "inputs.npy", ("--trust",), 2, "is no file"),
    ("model.safetensors", "inputs.npy", ("--model", "nowhere:network"), 2, "No module named 'nowhere'"),
    ("model.safetensors", "inputs.npy", ("--model", "network"), 2, "write it as module:function"),
    ("model.safetensors", "inputs.npy", ("--model", "tests.cli.pruned_network:not_a_model"), 2, "gives a str"),
    ("model.safetensors", "inputs.npy", ("--model", "tests.nn.pruning_models:conv_net"), 2, "the file lacks stem"),
    ("model.safetensors", "inputs.npy", ("--model", "tests.nn.pruning_models:mlp"), 2, "does not fit the model"),
    ("model.safetensors", "inputs.npz", BUILD, 2, "say which are the inputs with --key"),
    ("model.safetensors", "inputs.npz", (*BUILD, "--key", "z"), 2, "holds no tensor 'z'"),
    ("model.safetensors", "bytes.npy", BUILD, 2, "the inputs have dtype uint8"),
    ("model.safetensors", "integers.npy", BUILD, 2, "does not fit the model"),
    ("model.safetensors", "inputs.npy", (*BUILD, "--plain", "--solver", "nonsense"), 2, "finds transposable masks"),
    ("model.safetensors", "inputs.npy", (*BUILD, "--plain", "--masks", "m.safetensors"), 2, "leave one out"),
    ("model.safetensors", "inputs.npy", (*BUILD, "--masks", "/no/such/folder/m.safetensors"), 4, "does not exist"),
    ("model.safetensors", "wide.npy", BUILD, 2, "does not fit the model"),
    ("model.safetensors", "flat.npy", BUILD, 2, "the inputs have shape (7,)"),
    ("model.safetensors", "inputs.npy", (*BUILD, "--confidence", "1.5"), 2, "between 0 and 1"),
    ("model.safetensors", "inputs.npy", (*BUILD, "--confidence", "0.9999"), 2, "lower the confidence"),
    ("model.safetensors", "inputs.npy", (*BUILD, "--method", "sgd"), 2, "choose one of least-squares"),
    ("model.safetensors", "inputs.npy", (*BUILD, "--score", "luck"), 2, "no score is named 'luck'"),
    ("model.safetensors", "inputs.npy", (*BUILD, "--samples", "3", "--damping", "0"), 2, "3 samples are too few"),
    ("model.safetensors", "inputs.npy", (*BUILD, "-o", "out.txt"), 2, "name the output with one of"),
    ("model.safetensors", "inputs.npy", (*BUILD, "-o", "/no/such/folder/out.pt"), 4, "does not exist"),
]


@pytest.mark.parametrize(("model", "inputs", "arguments", "code", "says"), REFUSED)
def test_bad_usage_leaves_no_file(folder, model, inputs, arguments, code, says):
    np.save(folder / "integers.npy", np.ones((5, 16), np.int64))
    np.save(folder / "bytes.npy", np.ones((5, 16), np.uint8))
    np.save(folder / "wide.npy", np.ones((5, 17), np.float32))
    np.save(folder / "flat.npy", np.ones(7, np.float32))
    before = sorted(folder.iterdir())
    output = () if "-o" in arguments else ("-o", folder / "out.pt")
    result = run("convert", folder / model, folder / inputs, *output, *arguments, code=code)
    assert says in one_line(result.stderr)
    assert sorted(folder.iterdir()) == before


def test_inputs_are_never_written_over(folder):
    path = folder / "model.safetensors"
    contents = path.read_bytes()
    result = run("convert", path, folder / "inputs.npy", "-o", path, *BUILD, "--overwrite", code=4)
    assert "the file that is read" in one_line(result.stderr)
    run("convert", path, folder / "inputs.npy", "-o", folder / "state.pt", *BUILD, code=4)
    assert path.read_bytes() == contents


def test_a_failed_write_leaves_no_part(folder, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    before = sorted(folder.iterdir())
    result = run("convert", folder / "model.safetensors", folder / "inputs.npy", "-o", folder / "o.pt", *BUILD, code=4)
    assert "No space left" in one_line(result.stderr)
    assert sorted(folder.iterdir()) == before

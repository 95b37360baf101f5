"""Commands on the files that people have: experts, quantised and pruned models, grouped convolutions, directories."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tmask
from tests.cli.harness import TENSORS, leftovers, one_line, run, solve
from tmask.files.masks import read_masks
from tmask.files.opening import open_weights

RNG = np.random.default_rng(0)
COMMANDS = {
    "solve": ("-p", "2:4", "-o", "OUT.safetensors"),
    "compare": ("-p", "2:4", "--solvers", "bi-nm"),
    "allocate": ("-d", "0.5"),
    "diversity": ("-p", "2:4"),
}


def saved(path, **tensors):
    save_file({name: np.asarray(tensor) for name, tensor in tensors.items()}, path)
    return path


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def invoke(command, path, *args, code=0):
    options = [str(path.parent / each) if each.startswith("OUT") else each for each in COMMANDS[command]]
    return run(command, path, *options, *args, code=code)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_quantised_layer_is_refused_by_all_commands(tmp_path, command):
    tensors = {"fc.weight": RNG.integers(-9, 9, (16, 16)).astype(np.int8), "fc.weight_scale": floats(16, 1)}
    path = saved(tmp_path / "model.safetensors", **tensors)
    stderr = one_line(invoke(command, path, code=2).stderr)
    assert "is quantised: fc.weight holds codes of dtype int8" in stderr
    assert "Dequantise the model first" in stderr
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_layout_that_is_open_is_asked_for_by_all_commands(tmp_path, command):
    path = saved(tmp_path / "model.safetensors", w=floats(8, 16, 16), fc=floats(8, 8))
    assert "--layout 'w=stack'" in one_line(invoke(command, path, code=2).stderr)
    invoke(command, path, "--layout", "w=stack")


READING = {**COMMANDS, "doctor": ("--dtype", "float32")}


@pytest.mark.parametrize("command", READING)
def test_every_report_says_how_a_weight_was_read(tmp_path, command):
    if command == "doctor":
        pytest.importorskip("torch")
    path = saved(tmp_path / "model.safetensors", w=floats(8, 16, 16), fc=floats(8, 8), conv=floats(16, 8, 3, 3))
    options = [str(tmp_path / each) if each.startswith("OUT") else each for each in READING[command]]
    chosen = ("--layout", "w=stack", "--groups", "conv=2")
    assert "--layout 'w=stack'" in one_line(run(command, path, *options, code=2).stderr)
    shown = one_line(run(command, path, *options, *chosen).stdout)
    assert "stack of 8" in shown
    assert "convolution, 2 groups" in shown
    assert "matrix" in shown
    document = run(command, path, *options, *chosen, "--json", *(["--overwrite"] if command == "solve" else [])).stdout
    assert "stack" in document


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_csv_says_how_a_weight_was_read(tmp_path, command):
    path = saved(tmp_path / "model.safetensors", w=floats(8, 16, 16), conv=floats(16, 8, 3, 3))
    rows = tmp_path / "rows.csv"
    invoke(command, path, "--layout", "w=stack", "--groups", "conv=2", "--csv", rows)
    with rows.open() as file:
        found = list(csv.DictReader(file))
    if command == "compare":  # whose rows are of all layers together
        assert {row["read_as"] for row in found} == {"1 x convolution, 2 groups; 1 x stack of 8"}
    else:
        read = {(row["layer"], row["layout"], row["groups"]) for row in found}
        assert read == {("w", "stack", "1"), ("conv", "convolution", "2")}


def test_checked_and_merged_masks_say_how_their_weights_were_read(tmp_path):
    path = saved(tmp_path / "model.safetensors", w=floats(8, 16, 16), conv=floats(16, 8, 3, 3))
    solve(path, "--layout", "w=stack", "--groups", "conv=2")
    checked = run("check", tmp_path / "masks.safetensors", path)
    assert "stack of 8" in checked.stdout
    assert "convolution, 2 groups" in checked.stdout
    solve(path, "--layout", "w=stack", "--groups", "conv=2", "--shard", "1/2", name="two.safetensors")
    solve(path, "--layout", "w=stack", "--groups", "conv=2", "--shard", "2/2", name="two.safetensors")
    merged = run("merge", tmp_path / "two.safetensors", path).stdout
    assert "2 x stack of 4" in merged  # larger than half of all, it is cut into bands
    assert "1 x convolution, 2 groups" in merged


def test_doctor_without_a_file_has_no_layers_to_choose():
    pytest.importorskip("torch")
    assert "name the file" in one_line(run("doctor", "--layout", "stack", code=2).stderr)


def test_stacks_are_solved_as_such_and_said_to_be(tmp_path):
    path = saved(tmp_path / "model.safetensors", **{"mlp.experts.down_proj": floats(4, 8, 16)})
    result = solve(path, "--csv", tmp_path / "rows.csv")
    assert "stack of 4" in result.stdout
    (record,) = read_masks(tmp_path / "masks.safetensors").values()
    assert record.layout == "stack"
    tmask.check_mask(record.mask, "2:4", layout="stack")
    with (tmp_path / "rows.csv").open() as file:
        assert next(csv.DictReader(file))["layout"] == "stack"
    checked = run("check", tmp_path / "masks.safetensors", path)
    assert "stack" in checked.stdout
    assert "optimal" in checked.stdout


@pytest.mark.parametrize(
    ("text", "says"), [("w=experts", "write it as NAME="), ("nothing=stack", "matches no tensor"), ("w", "write it as")]
)
def test_layouts_that_cannot_be_read(tmp_path, text, says):
    path = saved(tmp_path / "model.safetensors", w=floats(8, 16, 16))
    assert says in one_line(solve(path, "--layout", text, code=2).stderr)


def test_one_layout_for_all(tmp_path):
    path = saved(tmp_path / "model.safetensors", w=floats(8, 16, 16))
    solve(path, "--layout", "stack", name="a.safetensors")
    assert "given before" in solve(path, "--layout", "stack", "--layout", "*=convolution", code=2).stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_everything_passed_over_is_listed_with_its_reason(tmp_path, command):
    tensors = {
        "lm_head.weight": floats(16, 8), "up.weight": floats(16, 8), "fc.weight_mask": floats(16, 8) > 0,
        "mlp.router.weight": floats(8, 8), "mlp.experts.0.w": floats(8, 8), "mlp.experts.bias": floats(8, 128),
        "dw.weight": floats(32, 1, 3, 3),
    }  # fmt: skip
    path = saved(tmp_path / "model.safetensors", **tensors)
    result = invoke(command, path)
    shown = one_line(result.stdout + result.stderr)
    for text in ("lm_head.weight", "fc.weight_mask", "mlp.router.weight", "mlp.experts.bias", "dw.weight", "--groups"):
        assert text in shown
    document = json.loads(invoke(command, path, "--json", *(["--overwrite"] if command == "solve" else [])).stdout)
    assert set(document["skipped"]) == set(tensors) - {"up.weight", "mlp.experts.0.w"}


def test_a_grouped_convolution_has_a_remark(weights):
    assert "read as convolutions without groups: conv.weight" in one_line(solve(weights).stderr)
    assert "--groups NAME=G" in one_line(solve(weights, "--overwrite").stderr)
    assert "without groups" not in solve(weights, "--groups", "conv*=1", "--overwrite").stderr


def test_what_was_pruned_does_not_come_back(tmp_path):
    torch = pytest.importorskip("torch")
    from torch.nn.utils import prune

    model = torch.nn.Sequential(torch.nn.Linear(16, 16))
    prune.random_unstructured(model[0], "weight", 0.5)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    solve(tmp_path / "model.pt", "--masked-weights", tmp_path / "sparse.pt")
    run("check", tmp_path / "masks.safetensors", tmp_path / "model.pt")
    before = model[0].weight.detach().clone()
    (record,) = read_masks(tmp_path / "masks.safetensors").values()
    assert record.total == pytest.approx(float(before.abs().double().sum()))
    model.load_state_dict(torch.load(tmp_path / "sparse.pt", weights_only=True))
    after = model[0](torch.eye(16)).T - model[0].bias[:, None]  # as the model computes
    assert ((after.abs() < 1e-6) | torch.isclose(after, before, atol=1e-6)).all()
    tiles = (model[0].weight_orig != 0).reshape(4, 4, 4, 4)
    assert (tiles.sum(1) <= 2).all()
    assert (tiles.sum(3) <= 2).all()


FORMATS = (".safetensors", ".npz", ".pt", ".pth", ".bin")


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("upper", [False, True])
def test_masked_weights_have_the_format_of_their_name(weights, ending, upper):
    path = weights.parent / f"sparse{ending.upper() if upper else ending}"
    solve(weights, "--masked-weights", path)
    written, masks = open_weights(path), read_masks(weights.parent / "masks.safetensors")
    assert set(written.names) == set(TENSORS)
    for name, tensor in TENSORS.items():
        expected = np.where(masks[name].mask, tensor, 0) if name in masks else tensor
        read = written.read(name)
        assert read.dtype == tensor.dtype
        assert read.bits.tobytes() == np.ascontiguousarray(expected).tobytes()
    if ending == ".npz":
        assert set(np.load(path)) == set(TENSORS)
    elif ending != ".safetensors":
        torch = pytest.importorskip("torch")
        assert set(torch.load(path, weights_only=True)) == set(TENSORS)
    run("compare", path, "-p", "2:4", "--solvers", "bi-nm")


def test_one_array_as_npy(tmp_path):
    np.save(tmp_path / "w.npy", floats(8, 8))
    solve(tmp_path / "w.npy", "--masked-weights", tmp_path / "sparse.npy")
    assert (np.count_nonzero(np.load(tmp_path / "sparse.npy"), axis=0) == 4).all()


@pytest.mark.parametrize(
    ("option", "name", "says"),
    [
        ("--masked-weights", "c.onnx", "the name's ending tells the format"),
        ("--masked-weights", "c", "the name's ending tells the format"),
        ("--masked-weights", "c.npy", "holds one array, not 6"),
        ("--masked-weights", "c.safetensors.index.json", "give the name of a folder"),
        ("-o", "z.npz", "masks are written as safetensors"),
        ("-o", "z.pt", "masks are written as safetensors"),
        ("-o", "z", "z.safetensors"),
        ("--csv", "rows.npz", "rows are written as CSV"),
        ("--csv", "rows.json", "rows are written as CSV"),
    ],
)
def test_names_of_other_formats_are_refused_before_any_work(weights, option, name, says, interrupt_after):
    solved = interrupt_after(99)
    assert says in one_line(solve(weights, option, weights.parent / name, code=2).stderr)
    assert solved == []
    assert leftovers(weights.parent) == []


@pytest.mark.parametrize("command", ["compare", "allocate", "diversity"])
def test_rows_of_other_commands_too(weights, command):
    assert "rows are written as CSV" in one_line(
        invoke(command, weights, "--csv", weights.parent / "rows.safetensors", code=2).stderr
    )


def test_numpy_has_no_bfloat16(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"fc.weight": torch.randn(8, 8, dtype=torch.bfloat16)}, tmp_path / "model.pt")
    stderr = solve(tmp_path / "model.pt", "--masked-weights", tmp_path / "s.npz", code=2).stderr
    assert "dtype bfloat16, which numpy does not have" in one_line(stderr)
    solve(tmp_path / "model.pt", "--masked-weights", tmp_path / "s.pt")
    assert torch.load(tmp_path / "s.pt", weights_only=True)["fc.weight"].dtype == torch.bfloat16


@pytest.fixture(params=[False, True], ids=["one file", "shards"])
def directory(tmp_path, request):
    """A small language model as transformers saves it."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    folder = tmp_path / "model"
    transformers.LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="10KB" if request.param else "5GB")
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("how", ["slash", "there", "name"])
def test_a_folder_gets_a_directory_that_loads(directory, how):
    from transformers import AutoModelForCausalLM

    folder, masks = directory.parent / "out", directory.parent / "m.safetensors"
    if how == "there":
        folder.mkdir()
    run("solve", directory, "-p", "2:4", "-o", masks, "--masked-weights", f"{folder}/" if how == "slash" else folder)
    assert {path.name for path in folder.iterdir()} == {path.name for path in directory.iterdir()}
    before, after = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (directory, folder))
    records = read_masks(masks)
    assert len(records) == 14
    for name, weight in before.items():
        expected = np.where(records[name].mask, weight, 0) if name in records else weight
        np.testing.assert_array_equal(after[name], expected)
    assert not [path for path in directory.parent.iterdir() if path.name.startswith(".tmask")]


def test_a_folder_from_a_single_file(weights):
    folder = weights.parent / "out"
    solve(weights, "--masked-weights", f"{folder}/")
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    assert set(load_file(folder / "model.safetensors")) == set(TENSORS)


def test_folders_that_cannot_be_written(directory):
    masks, folder = directory.parent / "m.safetensors", directory.parent / "out"
    folder.mkdir()
    (folder / "mine").write_text("mine")
    args = ("solve", directory, "-p", "2:4", "-o", masks, "--masked-weights")
    assert "is not empty" in one_line(run(*args, folder, code=4).stderr)
    assert "is the folder that is read" in one_line(run(*args, directory, "--overwrite", code=4).stderr)
    assert "does not exist" in one_line(run(*args, directory.parent / "no" / "out", code=4).stderr)
    run(*args, folder, "--overwrite")
    assert (folder / "mine").read_text() == "mine"
    assert (folder / "config.json").is_file()


def test_a_failure_leaves_no_folder(weights, monkeypatch):
    from tmask.files.outputs import model_folder

    monkeypatch.setattr(
        model_folder, "write_weights", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    assert "No space left" in solve(weights, "--masked-weights", f"{weights.parent}/out/", code=4).stderr
    assert leftovers(weights.parent) == ["masks.safetensors.partial"]


DYING = """
import os, signal
from tmask.cli import main
from tmask.files.outputs import model_folder

real = model_folder.write_weights
def dying(path, *args):
    real(path, *args)
    os.kill(os.getpid(), signal.SIGKILL)

model_folder.write_weights = dying
main()
"""


@pytest.mark.parametrize("there", [False, True])
def test_what_a_kill_left_of_a_folder_is_removed_by_the_next_run(weights, there):
    folder = weights.parent / "out"
    args = ["solve", weights, "-p", "2:4", "-o", weights.parent / "masks.safetensors", "--masked-weights", f"{folder}/"]
    command = [sys.executable, "-c", DYING, *map(str, args)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert any(path.name.startswith(".tmask-") for path in weights.parent.iterdir())
    if there:  # made since, by hand
        folder.mkdir()
        (folder / "mine").touch()
    run(*args, *(["--overwrite"] if there else []))
    assert leftovers(weights.parent) == ["masks.safetensors", "out"]


def test_two_tensors_of_one_name_are_refused_in_safetensors(tmp_path):
    save_file({"a": floats(4, 4), "b": floats(4, 4)}, tmp_path / "model.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes().replace(b'"b":', b'"a":')
    (tmp_path / "model.safetensors").write_bytes(data)
    assert solve(tmp_path / "model.safetensors", code=2).stderr


def test_a_whole_model_says_what_to_save(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(8, 8), tmp_path / "model.pt")
    stderr = one_line(solve(tmp_path / "model.pt", code=2).stderr)
    assert "save model.state_dict()" in stderr
    assert "\x1b" not in stderr

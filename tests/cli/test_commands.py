"""The commands as a user runs them: outputs, exit codes, and nothing lost."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import tmask
from tmask import registry
from tmask.cli import app
from tmask.comparison import COLUMNS
from tmask.files.masks import read_masks

RNG = np.random.default_rng(0)
TENSORS = {
    "conv.weight": RNG.standard_normal((8, 4, 3, 3)).astype(np.float32),
    "conv.bias": RNG.standard_normal(8).astype(np.float32),
    "embed.weight": RNG.standard_normal((8, 8)).astype(np.float32),
    "fc1.weight": RNG.standard_normal((16, 12)).astype(np.float32),
    "fc2.weight": RNG.standard_normal((10, 16)).astype(np.float16),
    "steps": np.arange(4),
}
LAYERS = {"conv.weight", "fc1.weight", "fc2.weight"}


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    return path


def run(*args, code=0):
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def solve(weights, *args, code=0, name="masks.safetensors"):
    return run("solve", weights, "-p", "2:4", "-o", weights.parent / name, *args, code=code)


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "model.safetensors")


def test_solve_writes_masks_that_check_accepts(weights):
    output = solve(weights).stdout
    for name in LAYERS:
        assert name in output
    assert "1-D, no matrix" in output
    assert "an embedding by its name" in output
    records = read_masks(weights.parent / "masks.safetensors")
    assert set(records) == LAYERS
    for name, record in records.items():
        tmask.check_mask(record.mask, "2:4")
        assert record.status == "optimal"
        assert record.solver == registry.AUTO[0]
        expected = tmask.solve(TENSORS[name], "2:4")
        assert record.objective == expected.objective
        np.testing.assert_array_equal(record.mask, expected.mask)
    assert "wrong" not in run("check", weights.parent / "masks.safetensors", weights).stdout
    assert leftovers(weights.parent) == ["masks.safetensors"]


def test_solve_writes_masked_weights_and_csv(weights):
    folder = weights.parent
    solve(weights, "--masked-weights", folder / "sparse.safetensors", "--csv", folder / "rows.csv")
    sparse = load_file(folder / "sparse.safetensors")
    masks = read_masks(folder / "masks.safetensors")
    for name, tensor in TENSORS.items():
        assert sparse[name].dtype == tensor.dtype
        expected = np.where(masks[name].mask, tensor, 0) if name in masks else tensor
        np.testing.assert_array_equal(sparse[name], expected)
        assert not np.signbit(sparse[name][sparse[name] == 0]).any()
    with (folder / "rows.csv").open() as file:
        assert {row["layer"] for row in csv.DictReader(file)} == LAYERS


def test_json_is_the_only_thing_on_stdout(weights):
    document = json.loads(solve(weights, "--json").stdout)
    assert set(document["layers"]) == LAYERS
    assert document["skipped"]["steps"] == "1-D, no matrix"
    checked = json.loads(run("check", weights.parent / "masks.safetensors", weights, "--json").stdout)
    assert checked["ok"]
    assert {layer["verdict"] for layer in checked["layers"]} == {"optimal"}
    assert json.loads(run("solvers", "--json").stdout)[0]["name"] in registry.BUILTIN


def test_layers_are_chosen_by_name(weights):
    solve(weights, "--include", "fc*", "--exclude", "fc2*", name="a.safetensors")
    assert set(read_masks(weights.parent / "a.safetensors")) == {"fc1.weight"}
    solve(weights, "--include", r"^(fc\d|embed)", "--regex", name="b.safetensors")
    assert set(read_masks(weights.parent / "b.safetensors")) == {"embed.weight", "fc1.weight", "fc2.weight"}
    solve(weights, "--include", "conv.weight", "--groups", "conv*=2", name="c.safetensors")
    tmask.check_mask(read_masks(weights.parent / "c.safetensors")["conv.weight"].mask, "2:4", groups=2)


def test_settings_are_read_by_their_type(weights):
    solve(weights, "--solver", "greedy-keep", "--set", "repair=true")
    assert {record.settings for record in read_masks(weights.parent / "masks.safetensors").values()} == {"repair=True"}
    solve(weights, "--solver", "random-best", "--set", "samples=3", name="b.safetensors")
    solve(weights, "--solver", "ortools-cpsat", "--set", "time_limit=none", "--include", "fc1*", name="c.safetensors")


def test_an_interrupted_run_resumes(weights, monkeypatch):
    folder = weights.parent
    real, seen = tmask.solve, []

    def interrupted(weight, *args, **kwargs):
        if len(seen) == 1:
            raise KeyboardInterrupt
        seen.append(weight)
        return real(weight, *args, **kwargs)

    monkeypatch.setattr(tmask, "solve", interrupted)
    result = solve(weights, code=130)
    assert "1 of 3 layers are kept" in result.stderr.replace("\n", " ")
    assert leftovers(folder) == ["masks.safetensors.partial"]

    seen.clear()
    monkeypatch.setattr(tmask, "solve", lambda weight, *a, **k: seen.append(weight) or real(weight, *a, **k))
    result = solve(weights)
    assert "1 layers were finished in an earlier run" in result.stderr
    assert len(seen) == 2
    assert leftovers(folder) == ["masks.safetensors"]
    run("check", folder / "masks.safetensors", weights)


def test_another_job_does_not_take_over_finished_layers(weights, monkeypatch):
    real, count = tmask.solve, []

    def interrupted(weight, *args, **kwargs):
        if count:
            raise KeyboardInterrupt
        count.append(1)
        return real(weight, *args, **kwargs)

    monkeypatch.setattr(tmask, "solve", interrupted)
    solve(weights, code=130)
    monkeypatch.setattr(tmask, "solve", real)
    result = solve(weights, "--solver", "bi-nm")
    assert "earlier run" not in result.stderr
    assert {r.solver for r in read_masks(weights.parent / "masks.safetensors").values()} == {"bi-nm"}


def test_a_failure_in_the_middle_leaves_no_output(weights):
    tensors = TENSORS | {"fc1.weight": np.full((8, 8), np.nan, np.float32)}
    save_file(tensors, weights)
    result = solve(weights, code=2)
    assert "layer 'fc1.weight': weight: 64 NaN" in result.stderr
    assert "masks.safetensors" not in leftovers(weights.parent)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--solver", "nope"], 2, "unknown solver 'nope'; there are: auto, augmenting-paths"),
        (["--solver", "bi-nm", "--set", "x=1"], 2, "has no setting 'x'"),
        (["--solver", "random-best", "--set", "samples"], 2, "write it as name=value"),
        (["--solver", "random-best", "--set", "samples=many"], 2, "samples is of type int"),
        (["--include", "fc9*"], 2, "matches no tensor"),
        (["--include", "(", "--regex"], 2, "is no regular expression"),
        (["--groups", "conv*"], 2, "write it as NAME=G"),
        (["-p", "4:2"], 2, "did you mean 2:4"),
        (["-p", "2-4"], 2, "write it as 'N:M'"),
        (["--solver", "patterns", "-p", "4:8"], 2, "takes blocks up to 4 x 4"),
    ],
)
def test_wrong_requests_say_what_was_wrong(weights, args, code, says):
    result = solve(weights, *args, code=code)
    assert says in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert leftovers(weights.parent) == []


def test_a_missing_library_is_exit_code_3_with_the_pip_line(weights, monkeypatch):
    entry = registry.Entry("networkx_simplex:NetworkxSimplex", ("no_such_library",), "networkx")
    monkeypatch.setitem(registry.BUILTIN, "networkx-simplex", entry)
    assert 'pip install "tmask[networkx]"' in solve(weights, "--solver", "networkx-simplex", code=3).stderr
    assert 'pip install "tmask[networkx]"' in run("solvers").stdout


def test_outputs_that_cannot_be_written_are_exit_code_4(weights):
    folder = weights.parent
    assert "does not exist" in run("solve", weights, "-p", "2:4", "-o", folder / "no" / "m", code=4).stderr
    assert "is a folder" in run("solve", weights, "-p", "2:4", "-o", folder, code=4).stderr
    (folder / "masks.safetensors").write_text("mine")
    assert "--overwrite" in solve(weights, code=4).stderr
    assert (folder / "masks.safetensors").read_text() == "mine"
    solve(weights, "--overwrite")
    assert set(read_masks(folder / "masks.safetensors")) == LAYERS


def test_files_that_are_no_weights_are_exit_code_2(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"no")
    (tmp_path / "b.txt").write_text("no")
    np.save(tmp_path / "c.npy", np.array([{"an": "object"}], dtype=object), allow_pickle=True)
    for name, says in [
        ("a.safetensors", "no complete safetensors"),
        ("b.txt", "the name's ending"),
        ("c.npy", "plain array"),
        ("d.pt", "does not exist"),
    ]:
        assert says in run("solve", tmp_path / name, "-p", "2:4", "-o", tmp_path / "m.safetensors", code=2).stderr


def test_check_finds_other_weights_and_wrong_masks(weights):
    masks = weights.parent / "masks.safetensors"
    solve(weights)
    other = weights.parent / "other.safetensors"
    save_file(TENSORS | {"fc1.weight": -TENSORS["fc1.weight"]}, other)
    assert "fc1.weight' was made for other weights" in run("check", masks, other, code=1).stderr
    solve(weights, "--solver", "bi-nm", "--overwrite")
    assert "not a transposable 2:4 mask" in run("check", masks, weights, code=1).stderr
    run("check", weights, weights, code=2)
    run("check", weights.parent / "none", weights, code=2)


def test_a_flipped_bit_is_found(weights):
    masks = weights.parent / "masks.safetensors"
    solve(weights, "--include", "fc1*")
    data = bytearray(masks.read_bytes())
    data[-1] ^= 1
    masks.write_bytes(data)
    run("check", masks, weights, code=1)


def test_compare_on_the_built_in_weights(tmp_path):
    rows = tmp_path / "rows.csv"
    args = ("--solvers", "patterns,bi-nm", "--repeats", "2", "--seconds-per-solver", "0.05")
    result = run("compare", "-p", "2:4", *args, "--csv", rows)
    for text in ("us/block", "mean gap", "worst gap", "optimal", "feasible", "patterns", "bi-nm", "exact"):
        assert text in result.stdout
    with rows.open() as file:
        read = list(csv.DictReader(file))
    assert len(read) == 4
    assert set(COLUMNS) | {"cpu", "numpy", "python"} <= set(read[0])
    assert float(read[0]["gap_worst"]) == 0 < float(read[1]["gap_worst"])


def test_compare_says_what_it_leaves_out(weights):
    args = ("--solvers", "patterns,bi-nm", "--repeats", "1", "--seconds-per-solver", "0.01")
    result = run("compare", weights, "-p", "4:8", *args)
    assert "patterns takes smaller blocks only" in result.stderr
    assert "cut short" in result.stderr
    summaries = json.loads(run("compare", weights, "-p", "2:4", *args, "--json").stdout)["summaries"]
    assert [summary["solver"] for summary in summaries] == ["patterns", "bi-nm"]


def test_compare_refuses_before_any_work(weights):
    assert "unknown solver" in run("compare", weights, "--solvers", "bi-nm,nope", code=2).stderr
    assert "not both" in run("compare", weights, "--solvers", "bi-nm", "--all-solvers", code=2).stderr
    assert "full 32 x 32 block" in run("compare", weights, "-p", "16:32", "--solvers", "bi-nm", code=2).stderr


def test_solvers_lists_every_one():
    output = run("solvers").stdout
    for name in registry.BUILTIN:
        assert name in output


def test_plot_draws_from_the_csv(tmp_path):
    rows = tmp_path / "rows.csv"
    run("compare", "-p", "2:4", "--solvers", "bi-nm", "--repeats", "1", "--seconds-per-solver", "0.01", "--csv", rows)
    run("plot", rows, "-o", tmp_path / "plots")
    assert len(list((tmp_path / "plots").glob("*.png"))) == len(list((tmp_path / "plots").glob("*.svg"))) == 3
    run("plot", tmp_path / "none.csv", code=2)


def test_as_a_process(weights):
    command = [sys.executable, "-m", "tmask.cli"]
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
    assert version.strip() == f"tmask {tmask.__version__}"
    wrong = subprocess.run([*command, "solve"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    bad = [*command, "solve", str(weights), "-p", "2:4", "-o", "/no/such/folder/m", "--json"]
    result = subprocess.run(bad, capture_output=True, text=True, check=False)
    assert result.returncode == 4
    assert result.stdout == ""
    assert result.stderr.startswith("error: cannot write /no/such/folder/m")

"""`tmask solve`: what it writes and what it refuses."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tmask
from tests.cli.harness import LAYERS, TENSORS, leftovers, one_line, run, solve
from tmask.files.masks import read_masks
from tmask.solving import registry


def test_it_writes_masks_that_check_accepts(weights):
    result = solve(weights)
    output = result.stdout
    for text in (*LAYERS, "8x4x3x3", "objective", "retained", "proven gap", "status", "seconds", "all 3"):
        assert text in output
    assert "1-D, no matrix" in one_line(result.stderr)
    assert "an embedding by its name" in one_line(result.stderr)
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


def test_it_writes_masked_weights_and_csv(weights):
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
        rows = {row["layer"]: row for row in csv.DictReader(file)}
    assert set(rows) == LAYERS
    assert float(rows["fc1.weight"]["objective"]) == masks["fc1.weight"].objective
    assert float(rows["fc1.weight"]["optimality_gap"]) == 0


def test_json_is_all_there_is_on_stdout(weights):
    document = json.loads(solve(weights, "--json").stdout)
    assert set(document["layers"]) == LAYERS
    assert document["skipped"]["steps"] == "1-D, no matrix"
    assert document["resumed"] == 0
    total = document["total"]
    assert total["objective"] == pytest.approx(sum(row["objective"] for row in document["layers"].values()))
    assert 0.5 < total["retained"] < 1
    assert (total["optimality_gap"], total["status"]) == (0, "optimal")


def test_without_certificates_there_is_no_gap(weights):
    document = json.loads(solve(weights, "--no-certify", "--json").stdout)
    assert document["total"]["optimality_gap"] is None
    assert {row["dual_bound"] for row in document["layers"].values()} == {None}


def test_layers_are_chosen_by_name(weights):
    solve(weights, "--include", "fc*", "--exclude", "fc2*", name="a.safetensors")
    assert set(read_masks(weights.parent / "a.safetensors")) == {"fc1.weight"}
    solve(weights, "--include", r"^(fc\d|embed)", "--regex", name="b.safetensors")
    assert set(read_masks(weights.parent / "b.safetensors")) == {"embed.weight", "fc1.weight", "fc2.weight"}
    solve(weights, "--include", "conv.weight", "--groups", "conv*=2", name="c.safetensors")
    tmask.check_mask(read_masks(weights.parent / "c.safetensors")["conv.weight"].mask, "2:4", groups=2)


@pytest.mark.usefixtures("test_solvers")
@pytest.mark.parametrize(
    ("texts", "settings"),
    [
        (["count=3"], "count=3 limit=None label=a on=False"),
        (["count=3", "limit=2", "label=x=y", "on=true"], "count=3 limit=2.0 label=x=y on=True"),
        (["count=-1", "limit=None", "label=", "on=False"], "count=-1 limit=None label= on=False"),
    ],
)
def test_settings_are_read_by_their_type(weights, texts, settings):
    solve(weights, "--solver", "tiny", *(arg for text in texts for arg in ("--set", text)))
    assert {record.settings for record in read_masks(weights.parent / "masks.safetensors").values()} == {settings}


@pytest.mark.usefixtures("test_solvers")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("count=many", "--set count=many: give a whole number"),
        ("count=1.5", "give a whole number"),
        ("limit=soon", "--set limit=soon: give a number or none"),
        ("on=1", "--set on=1: give true or false"),
        ("count", "--set 'count': write it as name=value"),
        ("=3", "write it as name=value"),
        ("speed=1", "has no setting 'speed'; its settings are count, label, limit, on"),
        ("label=b", "label was given before; give it once"),
    ],
)
def test_wrong_settings_say_what_was_wrong(weights, text, says):
    result = solve(weights, "--solver", "tiny", "--set", "label=a", "--set", text, code=2)
    assert says in one_line(result.stderr)
    assert leftovers(weights.parent) == []


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--solver", "nope"], "unknown solver 'nope'; there are: auto, "),
        (["--set", "repair=true"], "settings belong to a solver; name one with --solver"),
        (["--include", "fc9*"], "matches no tensor"),
        (["--include", "(", "--regex"], "is no regular expression"),
        (["--groups", "conv*"], "write it as NAME=G"),
        (["--groups", "conv*=0"], "write it as NAME=G"),
        (["--groups", "=2"], "write it as NAME=G"),
        (["--groups", "conv*=2", "--groups", "conv*=4"], "'conv*' was given before"),
        (["--groups", "conv*=3"], "layer 'conv.weight': weight of shape (8, 4, 3, 3): 3 groups do not divide"),
        (["-p", "4:2"], "did you mean 2:4"),
        (["-p", "2-4"], "write it as 'N:M'"),
        (["--solver", "patterns", "-p", "4:8"], "takes blocks up to 4 x 4"),
    ],
)
def test_wrong_requests_say_what_was_wrong(weights, args, says):
    result = solve(weights, *args, code=2)
    assert says in one_line(result.stderr)
    assert result.stdout == ""
    assert leftovers(weights.parent) == []


def test_a_missing_library_is_exit_code_3_with_the_pip_line(weights, monkeypatch):
    entry = registry.Entry("networkx_simplex:NetworkxSimplex", ("no_such_library",), "networkx")
    monkeypatch.setitem(registry.BUILTIN, "networkx-simplex", entry)
    assert 'pip install "tmask[networkx]"' in solve(weights, "--solver", "networkx-simplex", code=3).stderr


@pytest.mark.usefixtures("test_solvers")
def test_a_solver_that_fails_is_exit_code_3_and_names_the_layer(weights):
    stderr = one_line(solve(weights, "--solver", "failing", code=3).stderr)
    assert "error: layer 'conv.weight': status 7" in stderr
    assert leftovers(weights.parent) == []


def test_outputs_that_cannot_be_written_are_exit_code_4(weights):
    folder = weights.parent
    assert "does not exist" in run("solve", weights, "-p", "2:4", "-o", folder / "no" / "m", code=4).stderr
    assert "is a folder" in run("solve", weights, "-p", "2:4", "-o", folder, code=4).stderr
    (folder / "masks.safetensors").write_text("mine")
    assert "--overwrite" in solve(weights, code=4).stderr
    assert (folder / "masks.safetensors").read_text() == "mine"
    solve(weights, "--overwrite")
    assert set(read_masks(folder / "masks.safetensors")) == LAYERS


def test_the_weights_are_never_overwritten(weights, monkeypatch):
    before = weights.read_bytes()
    for option in ("--masked-weights", "--csv"):
        assert "is the file that is read" in solve(weights, option, weights, "--overwrite", code=4).stderr
    monkeypatch.chdir(weights.parent)
    stderr = run("solve", weights, "-p", "2:4", "-o", "model.safetensors", code=4).stderr
    assert "is the file that is read" in stderr
    assert "--overwrite" not in stderr
    assert "another output" in solve(weights, "--csv", weights.parent / "masks.safetensors", code=4).stderr
    assert weights.read_bytes() == before
    assert leftovers(weights.parent) == []


def test_files_that_are_no_weights_are_exit_code_2(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"no")
    (tmp_path / "b.txt").write_text("no")
    np.save(tmp_path / "c.npy", np.array([{"an": "object"}], dtype=object), allow_pickle=True)
    for name, says in [
        ("a.safetensors", "no complete safetensors"),
        ("b.txt", "the name's ending"),
        ("c.npy", "c.npy"),
        ("d.pt", "does not exist"),
    ]:
        stderr = run("solve", tmp_path / name, "-p", "2:4", "-o", tmp_path / "m.safetensors", code=2).stderr
        assert says in one_line(stderr)


def test_names_that_look_like_markup_are_shown_as_they_are(tmp_path, monkeypatch):
    folder = tmp_path / "a[/b]"
    folder.mkdir(parents=True)
    save_file({"x[red].w": TENSORS["fc1.weight"], "y[/z]": TENSORS["conv.bias"]}, folder / "model.safetensors")
    result = solve(folder / "model.safetensors")
    assert "x[red].w" in result.stdout
    assert "y[/z]" in result.stderr
    assert "a[/b]" in result.stdout
    monkeypatch.setenv("FORCE_COLOR", "1")  # draws the progress bar
    assert "x[red].w" in solve(folder / "model.safetensors", "--overwrite").stderr

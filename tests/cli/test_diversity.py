"""`tmask diversity`: over patterns, over the layers of a file, and its outputs."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.harness import LAYERS, leftovers, one_line, run
from tmask.diversity import tensor_diversity, transposable_count

QUICK = ("-p", "2:4", "-p", "4:8")


def test_of_the_usual_patterns():
    result = run("diversity")
    for text in ("1:4", "16:32", "116,963,796,250", "3.481e55", "0.4057", "1.6", "17,557,585,920,000", "2^63.2"):
        assert text in result.stdout
    for text in ("unstructured", "plain", "transposable", "structured", "product formula"):
        assert text in result.stdout
    assert "16:32: its log2 is an estimate; proven to be from 845.27 to 933.22" in one_line(result.stderr)
    assert "~9.77" in result.stdout
    assert "~0.8272" in result.stdout
    assert result.stdout.count("~") == 3


def test_of_patterns_as_json_and_csv(tmp_path):
    path = tmp_path / "rows.csv"
    document = json.loads(run("diversity", *QUICK, "-p", "16:32", "-p", " 2:4", "--json", "--csv", path).stdout)
    assert [(row["n"], row["m"]) for row in document["patterns"]] == [(2, 4), (4, 8), (16, 32)]
    first, second, last = document["patterns"]
    assert int(first["masks"]) == 90
    assert int(second["masks"]) == transposable_count(4, 8)
    assert (first["log2_at_least"], first["log2_at_most"]) == (first["log2"], first["log2"])
    assert last["masks"] is None
    assert last["log2_at_least"] < last["log2"] < last["log2_at_most"]
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["log2_exact"] for row in rows] == ["True", "True", "False"]
    assert rows[1]["product_formula"] == "17557585920000"
    assert list(rows[0]) == list(first)


def test_of_a_file(weights):
    result = run("diversity", weights, *QUICK)
    for text in (*LAYERS, "all 3", "8x4x3x3", "2:4 on model.safetensors", "4:8 on model.safetensors"):
        assert text in result.stdout
    assert "embed.weight" not in result.stdout
    assert "3 tensors get no mask and were left out" in one_line(result.stderr)


def test_of_a_file_as_json_and_csv(weights, tmp_path):
    path = tmp_path / "rows.csv"
    document = json.loads(run("diversity", weights, *QUICK, "--groups", "conv*=2", "--json", "--csv", path).stdout)
    rows = document["layers"]
    assert len(rows) == 2 * 3 * 4
    (row,) = [r for r in rows if (r["layer"], r["m"], r["constraint"]) == ("conv.weight", 8, "transposable")]
    assert row["log2"] == tensor_diversity((8, 4, 3, 3), "4:8", groups=2).log2
    total = document["totals"]["2:4"]["transposable"]
    ours = [r for r in rows if (r["m"], r["constraint"]) == (4, "transposable")]
    assert total["weights"] == sum(r["weights"] for r in ours) == 288 + 192 + 160
    assert total["bits_per_weight"] == pytest.approx(sum(r["log2"] for r in ours) / total["weights"])
    with path.open() as file:
        assert [list(r) for r in csv.DictReader(file)] == [list(r) for r in rows]


def test_estimates_are_marked(weights):
    save_file({"fc": np.zeros((32, 64), np.float32)}, weights)
    result = run("diversity", weights, "-p", "16:32")
    assert result.stdout.count("~1,694.1") == 2
    assert result.stdout.count("~0.8272") == 2
    assert "numbers with ~ are estimates" in one_line(result.stderr)


@pytest.mark.parametrize("of_a_file", [False, True])
def test_the_figure(weights, of_a_file):
    pytest.importorskip("matplotlib")
    path = weights.parent / "figure.svg"
    args = ("diversity", *([weights] if of_a_file else []), *QUICK, "--plot", path)
    run(*args)
    before = path.read_bytes()
    assert "exists already" in one_line(run(*args, code=4).stderr)
    run(*args, "--overwrite")
    assert path.read_bytes() == before
    assert leftovers(weights.parent) == ["figure.svg"]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["-p", "4:2"], 2, "did you mean 2:4"),
        (["--include", "a"], 2, "give a weight file"),
        (["--groups", "a=2"], 2, "give a weight file"),
        (["--regex"], 2, "give a weight file"),
        (["--plot", "figure.txt"], 4, "must end in"),
        (["--csv", "/no/such/folder/rows.csv"], 4, "does not exist"),
        (["--csv", "a.csv", "--plot", "a.csv"], 4, "another output of this command"),
        (["missing.safetensors"], 2, "does not exist"),
    ],
)
def test_bad_usage(args, code, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("diversity", *args, code=code)
    assert says in one_line(result.stderr)
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_layer_out_of_reach_is_named_and_the_others_are_counted(weights):
    """One layer with tiles of 24 rows cut short, one of full tiles alone."""
    save_file({"edge": np.zeros((56, 56), np.float32), "full": np.zeros((64, 64), np.float32)}, weights)
    result = run("diversity", weights, "-p", "16:32", "-p", "2:4")
    assert "16:32, layer 'edge': a tile of 32 x 24 cut short" in one_line(result.stderr)
    lines = [line.strip("│ ").split() for line in result.stdout.splitlines()]
    rows = [line for line in lines if line and line[0] in ("edge", "full", "all")]
    assert [row[0] for row in rows] == ["edge", "full", "all"] * 2
    assert [sum("." in cell for cell in row) for row in rows] == [3, 5, 3, 5, 5, 5]
    document = json.loads(run("diversity", weights, "-p", "16:32", "--json").stdout)
    found = {(row["layer"], row["constraint"]) for row in document["layers"]}
    assert len(found) == 7
    assert ("edge", "transposable") not in found
    assert set(document["totals"]["16:32"]) == {"unstructured", "plain", "structured"}


def test_the_weights_are_never_overwritten(weights):
    result = run("diversity", weights, *QUICK, "--csv", weights, "--overwrite", code=4)
    assert "is the file that is read" in one_line(result.stderr)

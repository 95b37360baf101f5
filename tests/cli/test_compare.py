"""`tmask compare`: the table, the CSV, and what is left out."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.harness import TENSORS, Tiny, leftovers, one_line, run
from tmask.comparison.runs import COLUMNS
from tmask.solving import registry

QUICK = ("--repeats", "2", "--seconds-per-solver", "0.02")
ALL_BLOCKS = ("--repeats", "2", "--seconds-per-solver", "20")  # time for every block, however slow the machine
TWO = ("--solvers", "patterns,bi-nm", *QUICK)
TWO_ON_ALL = ("--solvers", "patterns,bi-nm", *ALL_BLOCKS)


def test_on_the_built_in_weights(tmp_path):
    rows = tmp_path / "rows.csv"
    result = run("compare", "-p", "2:4", *TWO_ON_ALL, "--csv", rows)
    for text in ("us/block", "spread", "weights/s", "retained", "mean gap", "worst gap", "optimal", "underfilled"):
        assert text in result.stdout
    for text in ("patterns", "bi-nm", "exact", "heuristic"):
        assert text in result.stdout
    with rows.open() as file:
        read = list(csv.DictReader(file))
    assert [row["solver"] for row in read] == ["patterns", "bi-nm"] * 2
    assert set(COLUMNS) | {"cpu", "numpy", "python"} <= set(read[0])
    assert float(read[0]["gap_worst"]) == 0 < float(read[1]["gap_worst"])


def test_json_is_all_there_is_on_stdout(weights):
    document = json.loads(run("compare", weights, "-p", "2:4", *TWO_ON_ALL, "--json").stdout)
    assert [(row["solver"], row["exact"]) for row in document["summaries"]] == [("patterns", True), ("bi-nm", False)]
    # conv: 2 tiles at 9 positions; fc1: 4 x 3; fc2: 2 x 4, and 4 cut short in its last 2 rows
    assert {row["blocks"] for row in document["summaries"]} == {18 + 12 + 8}
    assert "2:4: 4 tiles that are cut short at an edge were left out" in document["notes"]
    assert document["environment"]["numpy"]


def test_layers_are_chosen_by_name(weights):
    document = json.loads(run("compare", weights, "--include", "fc1*", "-p", "2:4", *TWO_ON_ALL, "--json").stdout)
    assert {row["blocks"] for row in document["summaries"]} == {12}


def test_it_says_what_it_leaves_out(weights):
    stderr = one_line(run("compare", weights, "-p", "4:8", *TWO).stderr)
    assert "4:8: left out, since they take smaller blocks only: patterns" in stderr
    assert "tiles that are cut short at an edge were left out" in stderr
    assert "4 tensors get no mask" in stderr
    assert "8 x 4, smaller than a 8 x 8 tile (include it by its full name to mask it): conv.weight" in stderr


def test_missing_solvers_are_listed_with_the_pip_line(weights, monkeypatch):
    monkeypatch.setattr(registry, "BUILTIN", {name: registry.BUILTIN[name] for name in ("bi-nm", "patterns")})
    entry = registry.Entry("networkx_simplex:NetworkxSimplex", ("no_such_library",), "networkx")
    monkeypatch.setitem(registry.BUILTIN, "networkx-simplex", entry)
    monkeypatch.setattr(registry, "REFERENCES", ())
    result = run("compare", weights, "-p", "2:4", "--all-solvers", *QUICK)
    assert 'not installed: networkx-simplex; run: pip install "tmask[networkx]"' in one_line(result.stderr)
    assert "bi-nm" in result.stdout
    assert "patterns" in result.stdout
    assert "networkx" not in result.stdout
    result = run("compare", weights, "-p", "2:4", "--solvers", "bi-nm,networkx-simplex", *QUICK, code=3)
    assert 'pip install "tmask[networkx]"' in one_line(result.stderr)


@pytest.mark.usefixtures("test_solvers")
def test_a_solver_that_fails_is_a_row_and_exit_code_3(weights, tmp_path):
    args = ("compare", weights, "-p", "2:4", "--solvers", "failing,bi-nm", *QUICK)
    result = run(*args, "--csv", tmp_path / "rows.csv", code=3)
    assert "error: failing on 2:4 failed in 2 of 2 runs: SolverFailedError: status 7" in one_line(result.stderr)
    table = result.stdout
    assert table.index("bi-nm") < table.index("failing")
    assert "nan" not in table
    with (tmp_path / "rows.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    document = json.loads(run(*args, "--json", code=3).stdout)
    assert document["summaries"][0]["microseconds"] is None


def test_nothing_is_run_twice(weights):
    args = ("--solvers", "bi-nm,bi-nm", "-p", "2:4", "-p", " 2:4")
    document = json.loads(run("compare", weights, *args, *QUICK, "--json").stdout)
    assert [(row["solver"], row["repeats"]) for row in document["summaries"]] == [("bi-nm", 2)]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--solvers", "bi-nm,nope"], 2, "unknown solver 'nope'"),
        (["--solvers", "auto"], 2, "stands for the fastest exact solver"),
        (["--solvers", ", "], 2, "names none; write it as a,b,c"),
        (["--solvers", "bi-nm", "--all-solvers"], 2, "not both"),
        (["--solvers", "bi-nm", "-p", "16:32"], 2, "fc1.weight: 16 x 12, smaller than a 32 x 32 tile"),
        (["--solvers", "patterns", "-p", "4:8"], 2, "4:8: none of the solvers takes blocks of side 8 (patterns up to"),
        (["--solvers", "bi-nm", "--include", "fc9*"], 2, "matches no tensor"),
        (["--solvers", "bi-nm", "--csv", "/no/such/folder/rows.csv"], 4, "does not exist"),
        (["--solvers", "bi-nm", "--repeats", "0"], 2, "--repeats"),
    ],
)
def test_it_refuses_before_any_work(weights, args, code, says):
    result = run("compare", weights, *args, code=code)
    assert says in one_line(result.stderr)
    assert result.stdout == ""
    assert leftovers(weights.parent) == []


def test_the_weights_are_never_overwritten(weights):
    result = run("compare", weights, *TWO, "--csv", weights, "--overwrite", code=4)
    assert "is the file that is read" in one_line(result.stderr)


def test_weights_that_are_not_finite_are_named(weights):
    save_file(TENSORS | {"fc1.weight": np.full((8, 8), np.inf, np.float32)}, weights)
    assert "fc1.weight: 64 NaN or infinite values" in one_line(run("compare", weights, *TWO, code=2).stderr)


def test_a_row_that_hit_a_limit_says_so(weights, monkeypatch):
    answer = Tiny._solve
    monkeypatch.setattr(Tiny, "_solve", lambda *args: replace(answer(*args), limit_reached=True))
    monkeypatch.setattr(Tiny, "__init__", lambda self: object.__setattr__(self, "count", 1))
    monkeypatch.setattr(registry, "_registered", {"tiny": Tiny})
    args = ("compare", weights, "-p", "2:4", "--solvers", "tiny,bi-nm", *QUICK)
    table = run(*args).stdout
    assert "at a limit" in one_line(table)
    rows = {row["solver"]: row for row in json.loads(run(*args, "--json").stdout)["summaries"]}
    assert (rows["tiny"]["limits"], rows["bi-nm"]["limits"]) == (2, 0)

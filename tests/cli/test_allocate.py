"""`tmask allocate`: the table of patterns, its outputs, and budgets that cannot be met."""

from __future__ import annotations

import csv
import json
import math

import pytest

import tmask
from tests.cli.harness import LAYERS, TENSORS, leftovers, one_line, run

pytest.importorskip("ortools")

OFFER = ("-p", "1:4", "-p", "2:4", "-p", "4:4", "-s", "patterns", "--exclude", "fc2*")


def test_json_and_csv(weights):
    path = weights.parent / "rows.csv"
    document = json.loads(run("allocate", weights, "-d", "0.5", *OFFER, "--json", "--csv", path).stdout)
    rows = document["layers"]
    assert {row["layer"] for row in rows} == LAYERS - {"fc2.weight"}
    for row in rows:
        solution = tmask.solve(TENSORS[row["layer"]], row["pattern"], "patterns")
        assert row["loss"] == pytest.approx(solution.total - solution.objective, abs=1e-6)
        assert row["total"] == pytest.approx(solution.total)
        assert row["size"] == TENSORS[row["layer"]].size
    total = document["total"]
    assert total["density"] <= 0.5 == total["budget"]
    assert total["loss"] == math.fsum(row["loss"] for row in rows)
    with path.open() as file:
        assert [row["pattern"] for row in csv.DictReader(file)] == [row["pattern"] for row in rows]


def test_the_table(weights):
    result = run("allocate", weights, "-d", "1", *OFFER)
    for text in ("conv.weight", "fc1.weight", "all 2", "4:4", "100.00%", "480"):
        assert text in result.stdout
    assert "4 tensors get no mask" in one_line(result.stderr)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["-d", "0.2", *OFFER], 2, "0.25 of the weights are kept"),
        (["-d", "1.2", *OFFER], 2, "at most 1"),
        (["-d", "0.5", "-p", "4:2"], 2, "did you mean 2:4"),
        (["-d", "0.5", "-p", "2:4", "-s", "nope"], 2, "unknown solver 'nope'"),
        (["-d", "0.5", *OFFER, "--csv", "/no/such/folder/rows.csv"], 4, "does not exist"),
    ],
)
def test_bad_usage(weights, args, code, says):
    result = run("allocate", weights, *args, code=code)
    assert says in one_line(result.stderr)
    assert result.stdout == ""
    assert leftovers(weights.parent) == []

"""Tables of training on a GPU: ratios the right way round, by size, and nothing made up for what was not run."""

from __future__ import annotations

import csv

import pytest

pytest.importorskip("torch")

from bench import gpu_training_report
from bench.gpu_training_report import report

COLUMNS = ("part", "route", "dtype", "out_features", "in_features", "tokens", "backend", "quantity", "value", "failure")


def row(part, quantity, value, backend="", size=("64", "64", "32"), route="", failure=""):
    return dict(zip(COLUMNS, (part, route, "bfloat16", *size, backend, quantity, value, failure), strict=True))


ROWS = [
    row("block", "step_seconds", "0.02", "dense"),
    row("block", "step_seconds", "0.025", "masked"),
    row("block", "step_seconds", "0.016", "semi_structured"),
    row("block", "graph_step_seconds", "0.018", "dense"),
    row("block", "step_seconds", "0.003", "dense", ("8", "8", "32")),
    row("block", "graph_step_over_dense", "0.8", "auto", route="4 of 4 packed"),
    row("compiled", "reduce_overhead_step_over_dense", "0.5", "auto", route="3 of 4 packed"),
    row("compiled", "reduce_overhead_step_over_dense_least", "0.4", "auto", route="3 of 4 packed"),
    row("compiled", "reduce_overhead_step_over_dense_most", "0.625", "auto", route="3 of 4 packed"),
    row("linear", "graph_dense_seconds", "0.004"),
    row("linear", "graph_masked_seconds", "0.005"),
    row("linear", "graph_sparse_seconds", "0.002"),
    row("check", "", "", failure="no such kernel"),
    row("packing", "pack_seconds", "0.00025"),
    row("block", "renewal_seconds", "0.0034", "semi_structured"),
]


def lines_of(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]


def test_ratios_are_of_dense_over_the_other_one():
    lines = lines_of(report(ROWS))
    assert ["64, 32", "eager", "20", "25 (0.80)", "16 (1.25)"] in lines
    assert ["64, 32", "passes in a graph", "18", "", ""] in lines
    assert ["8, 32", "eager", "3", "", ""] in lines
    assert ["64, 32", "passes in a graph", "auto", "4 of 4 packed", "1.25"] in lines
    assert ["64, 32", "torch.compile, reduce_overhead", "auto", "3 of 4 packed", "2.00 (1.60 to 2.50)"] in lines
    assert ["bfloat16", "64 x 64", "32", "4", "5 (0.80)", "2 (2.00)"] in lines
    assert ["packing, each step", "bfloat16", "64 x 64", "", "0.25"] in lines
    assert ["a renewal of the block's four layers", "bfloat16", "64 x 64", "semi_structured", "3.4"] in lines


def test_what_was_not_run_is_left_out():
    assert "linear" not in report(ROWS[:3])
    assert report(ROWS[:3]).count("###") == 1
    assert report([]) == "\n"


def test_the_page_lies_beside_the_first_file(tmp_path, capsys):
    paths = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for path, part in zip(paths, (ROWS[:5], ROWS[5:]), strict=True):
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, COLUMNS)
            table.writeheader()
            table.writerows(part)
    gpu_training_report.main(paths)
    assert (tmp_path / "one.md").read_text() == report(ROWS)
    assert report(ROWS) in capsys.readouterr().out

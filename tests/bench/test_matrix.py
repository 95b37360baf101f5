"""The benchmark of whole matrices: its matrices, its turns, and that its page says what its rows say."""

import shutil
import time

import numpy as np
import pytest

import tmask

pytest.importorskip("tabulate")

from bench.cases import CASES
from bench.matrix import main
from bench.matrix_calls import floor, matrix, solving
from bench.matrix_report import report
from bench.rows import RESULTS
from bench.turns import measure
from tmask.blocks.pattern import Pattern

PATTERN = Pattern(4, 8)


def test_a_matrix_is_made_of_the_blocks_of_its_case():
    case = CASES[0]
    weight = matrix(case, PATTERN, 32)
    tiles = weight.reshape(4, 8, 4, 8).transpose(0, 2, 1, 3).reshape(-1, 8, 8)
    np.testing.assert_array_equal(tiles, case.blocks(PATTERN, 16))


def test_calls_are_measured_in_turn():
    weight = matrix(CASES[0], PATTERN, 64)
    calls = {
        "midpoint": solving(weight, PATTERN, "midpoint", threads=2),
        "floor": floor(weight, PATTERN),
        "slow": lambda: time.sleep(0.06) or {"blocks": 1},
    }
    rows = list(measure(calls, 2))
    assert [(row["solver"], row["repeat"]) for row in rows] == [(name, k) for k in (0, 1) for name in calls]
    assert rows[0]["blocks"] == rows[1]["blocks"] == 64
    assert rows[0]["gap"] == 0
    assert rows[0]["threads"] == 2
    assert rows[0]["calls"] > 1
    assert rows[2]["calls"] == 1
    assert rows[2]["seconds"] >= 0.06


def test_an_unknown_part_is_refused_before_any_work(tmp_path):
    with pytest.raises(tmask.InvalidProblemError, match="no part 'speed'; there are: ratios, "):
        main(tmp_path / "out.csv", parts="speed")
    assert not list(tmp_path.iterdir())


def test_the_page_is_drawn_from_the_rows(tmp_path):
    shutil.copy(RESULTS / "matrix.csv", tmp_path)
    assert report(tmp_path / "matrix.csv") == (RESULTS / "matrix.md").read_text()
    assert (tmp_path / "matrix_curve.png").stat().st_size > 10_000


def test_the_curve_is_the_same_file_each_time(tmp_path):
    drawn = []
    for _ in range(2):
        shutil.copy(RESULTS / "matrix.csv", tmp_path)
        report(tmp_path / "matrix.csv")
        drawn.append((tmp_path / "matrix_curve.svg").read_bytes())
    assert drawn[0] == drawn[1]

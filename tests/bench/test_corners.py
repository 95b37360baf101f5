"""The benchmark of ties: a row a turn and case, and ratios within a turn."""

import csv

from bench.corners import CORNERS, main, ratios


def test_rows_and_ratios(tmp_path, capsys):
    out = tmp_path / "corners.csv"
    main(out, "4:8", 2, 64)
    rows = list(csv.DictReader(out.open()))
    assert [(row["case"], row["repeat"]) for row in rows] == [(case.name, str(k)) for k in (0, 1) for case in CORNERS]
    assert {row["gap"] for row in rows if row["case"] != "powers of two over 2^90"} == {"0.0"}
    assert {(row["n"], row["m"], row["side"], row["threads"]) for row in rows} == {("4", "8", "64", "1")}
    printed = capsys.readouterr().out
    assert all(case.name in printed for case in CORNERS)


def test_a_ratio_is_that_of_one_turn():
    seconds = {("normal", 0): 1.0, ("normal", 1): 2.0, ("ties", 0): 3.0, ("ties", 1): 6.0}
    rows = [{"case": case, "repeat": k, "seconds": value} for (case, k), value in seconds.items()]
    assert ratios(rows, "ties") == "3.00 (3.00-3.00)"

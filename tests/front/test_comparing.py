"""`tmask.compare` and `tmask.plot`."""

import csv

import numpy as np
import pytest

import tmask

WEIGHT = np.random.default_rng(0).standard_normal((22, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def compared():
    return tmask.compare(WEIGHT, ["2:4", "1:4"], ["patterns", "bi-nm"], repeats=2, seconds_per_solver=0.02)


def test_solvers_are_judged_on_the_same_blocks(compared):
    rows = {(s.n, s.solver): s for s in compared.summaries}
    assert {summary.blocks for summary in rows.values()} == {20}
    assert rows[2, "patterns"].gap_mean == 0
    assert rows[2, "patterns"].optimal_share == 1
    assert rows[2, "bi-nm"].retained < rows[2, "patterns"].retained
    assert rows[2, "bi-nm"].gap_mean > 0
    assert compared.notes == tuple(f"{p}: 4 tiles that are cut short at an edge were left out" for p in ("2:4", "1:4"))


def test_it_shows_itself(compared):
    assert repr(compared) == "<Comparison of 2 solvers on 2 patterns; print() it for a table>"
    lines = str(compared).splitlines()
    assert lines[1] == "blocks that all solved, and that are judged: 2:4 20, 1:4 20"
    assert lines[2].split()[:3] == ["pattern", "solver", "kind"]
    assert len(lines) == 3 + 4 + 2
    underfilled = {row["solver"]: row["underfilled"] for row in compared.card().rows}
    assert underfilled["patterns"] == "0" != underfilled["bi-nm"]
    page = compared._repr_html_()
    assert page.count("<tr>") == 1 + 1 + 5
    assert "cut short" in page


def test_it_says_how_weights_were_read(compared, tmp_path):
    assert "(weights read as 1 x matrix)" in str(compared)
    stack = {"a": np.ones((2, 8, 8), np.float32), "b": np.ones((3, 8, 8), np.float32)}
    done = tmask.compare(stack, "2:4", ["patterns"], layout="stack", seconds_per_solver=0.01, repeats=1)
    done.write_csv(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open() as file:
        assert next(csv.DictReader(file))["read_as"] == "1 x stack of 2; 1 x stack of 3"


def test_several_weights_by_name_and_groups():
    pytest.importorskip("torch")
    import torch

    weights = {"a": torch.ones(8, 8), "b": torch.ones(8, 4, 1, 1)}
    done = tmask.compare(weights, "2:4", ["patterns"], groups={"b": 2}, seconds_per_solver=0.01, repeats=1)
    assert done.runs[0].blocks == 6
    with pytest.raises(tmask.InvalidProblemError, match="groups are given for c, which"):
        tmask.compare(weights, "2:4", ["patterns"], groups={"c": 2})


def test_without_names_it_takes_what_is_installed(monkeypatch):
    monkeypatch.setattr("tmask.front.comparing.available_solvers", lambda: ["patterns", "bi-nm", "random-best"])
    done = tmask.compare(WEIGHT, "2:4", seconds_per_solver=0.01, repeats=1)
    assert {run.solver for run in done.runs} == {"patterns", "bi-nm"}


def test_solvers_of_smaller_blocks_are_left_out_with_a_note():
    done = tmask.compare(WEIGHT, "4:8", ["patterns", "bi-nm"], seconds_per_solver=0.01, repeats=1)
    assert {run.solver for run in done.runs} == {"bi-nm"}
    assert done.notes[-1] == "4:8: left out, since they take smaller blocks only: patterns"
    with pytest.raises(tmask.InvalidProblemError, match="none of the solvers takes blocks of side 8"):
        tmask.compare(WEIGHT, "4:8", ["patterns"])


def test_no_full_block():
    with pytest.raises(tmask.InvalidProblemError, match="no weight holds a full 32 x 32 block"):
        tmask.compare(WEIGHT, "16:32", ["bi-nm"])


def test_its_csv_is_what_plot_reads(compared, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    compared.write_csv(tmp_path / "runs.csv")
    with (tmp_path / "runs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(compared.runs) == 8
    with pytest.raises(tmask.OutputError):
        compared.write_csv(tmp_path / "runs.csv")
    for figure in (tmask.plot(compared), tmask.plot(tmp_path / "runs.csv"), compared.plot()):
        assert [axes.get_title() for axes in figure.axes] == ["1:4", "2:4"]


def test_plot_takes_what_can_be_drawn():
    pytest.importorskip("matplotlib")
    figure = tmask.plot(tmask.solve(WEIGHT, "2:4", "patterns"))
    assert figure.get_suptitle().startswith("2:4 by patterns")
    with pytest.raises(tmask.InvalidProblemError, match="no figure of a int"):
        tmask.plot(3)


def test_a_solution_and_a_certificate_show_themselves():
    solution = tmask.solve(WEIGHT[:20], "2:4", "patterns")
    page = solution._repr_html_()
    assert "<svg" in page
    assert "2:4 of 20x16 by patterns" in page
    assert solution.status.advice.split(":")[0] in page
    certified = tmask.certify(WEIGHT[:20], solution.mask, "2:4")._repr_html_()
    assert "20 of 20" in certified

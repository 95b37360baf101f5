"""`tmask solvers` and `tmask plot`."""

from __future__ import annotations

import json

import pytest

from tests.cli.harness import run
from tmask.solving import registry


def test_every_solver_is_listed():
    output = run("solvers").stdout
    listed = {info["name"]: info for info in json.loads(run("solvers", "--json").stdout)}
    assert set(registry.BUILTIN) <= set(listed)
    for name in registry.BUILTIN:
        assert name in output
    assert "samples=1000" in output
    assert listed["patterns"]["kind"] == "exact"
    assert listed["patterns"]["max_side"] == 4
    assert listed["bi-nm"]["kind"] == "heuristic"
    assert listed["random-best"]["settings"] == {"samples": 1000, "seed": 0}


@pytest.mark.usefixtures("test_solvers")
def test_a_setting_without_a_default_says_so():
    assert "count=(required), limit=None, label=a, on=False" in run("solvers").stdout


def test_what_is_missing_has_its_pip_line(monkeypatch):
    entry = registry.Entry("networkx_simplex:NetworkxSimplex", ("no_such_library",), "networkx")
    monkeypatch.setitem(registry.BUILTIN, "networkx-simplex", entry)
    assert 'pip install "tmask[networkx]"' in run("solvers").stdout
    listed = {info["name"]: info for info in json.loads(run("solvers", "--json").stdout)}
    assert not listed["networkx-simplex"]["available"]
    assert listed["networkx-simplex"]["missing"] == ["no_such_library"]
    assert listed["networkx-simplex"]["install"] == 'pip install "tmask[networkx]"'


def test_another_packages_broken_solver_does_not_hide_the_others(monkeypatch):
    from importlib.metadata import EntryPoint

    point = EntryPoint("broken", "json:dumps", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "_entry_points", lambda: {"broken": point})
    listed = {info["name"]: info for info in json.loads(run("solvers", "--json").stdout)}
    assert not listed["broken"]["available"]
    assert "is not a dataclass that extends tmask.Solver" in listed["broken"]["problem"]
    assert listed["patterns"]["available"]


def test_plots_come_from_the_csv(tmp_path):
    rows = tmp_path / "rows.csv"
    run("compare", "-p", "2:4", "--solvers", "bi-nm", "--repeats", "1", "--seconds-per-solver", "0.01", "--csv", rows)
    printed = run("plot", rows, "-o", tmp_path / "plots").stdout
    for suffix in ("png", "svg"):
        assert len(list((tmp_path / "plots").glob(f"*.{suffix}"))) == 3
        assert printed.count(f".{suffix}") == 3


def test_plots_of_what_is_no_csv(tmp_path):
    run("plot", tmp_path / "none.csv", "-o", tmp_path / "plots", code=2)
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    assert "lacks the columns" in run("plot", tmp_path / "a.csv", "-o", tmp_path / "plots", code=2).stderr
    assert not (tmp_path / "plots").exists()


def test_plots_without_matplotlib_give_the_pip_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)  # makes its import fail
    stderr = run("plot", tmp_path / "rows.csv", code=3).stderr
    assert 'pip install "tmask[plot]"' in stderr

"""Solvers of other packages that cannot be loaded: listed with the reason, and the rest go on."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest

import tmask
from tests.cli.harness import one_line, run
from tmask.solving import registry

SOLVER = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from tmask import Answer, Solver

@dataclass(frozen=True)
class Plugged(Solver):
    name: ClassVar[str] = "plugged"
    exact: ClassVar[bool] = False

    def _solve(self, scores, n):
        i = np.arange(scores.shape[1])
        return Answer(np.broadcast_to((i[None] - i[:, None]) % len(i) < n, scores.shape).copy())
"""
BAD_FILES = {
    "runtime error": ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
    "syntax error": ("def f(:", "SyntaxError: invalid syntax"),
    "name error": ("missing", "NameError: name 'missing' is not defined"),
    "exit": ("raise SystemExit(5)", "SystemExit: 5"),
    "quiet exit": ("raise SystemExit", "SystemExit"),
    "import error": ("import no_such_library", "No module named 'no_such_library'"),
    "key error": ("{}['a']", "KeyError: 'a'"),
    "no class": ("", "AttributeError"),
    "another class": ("Plugged = dict", "is not a dataclass that extends tmask.Solver"),
    "no name": (SOLVER.replace('name: ClassVar[str] = "plugged"', ""), "has no class constant 'name'"),
    "no claim": (SOLVER.replace("exact: ClassVar[bool] = False", ""), "has no class constant 'exact'"),
    "another name": (SOLVER.replace('"plugged"', '"other"'), "calls itself 'other'"),
    "nothing to solve with": (SOLVER.replace("def _solve", "def solve_"), "does not implement _solve"),
    "refuses to be made": (SOLVER + "\n    def __post_init__(self): 1 / 0\n", "cannot be made: ZeroDivisionError"),
    "needs a setting": (SOLVER.replace("    name:", "    licence: str\n    name:"), "needs the settings licence"),
}
LOADS = ("refuses to be made", "needs a setting")


@pytest.fixture(params=sorted(BAD_FILES))
def plug_in(request, tmp_path, monkeypatch):
    """What is wrong with the solver `plugged` of another package, and what should be said of it."""
    source, says = BAD_FILES[request.param]
    (tmp_path / "plugged_solver.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "plugged_solver", raising=False)
    point = EntryPoint("plugged", "plugged_solver:Plugged", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "_entry_points", lambda: {"plugged": point})
    yield request.param, says
    sys.modules.pop("plugged_solver", None)


def test_it_is_listed_with_the_reason(plug_in):
    case, says = plug_in
    listed = {info["name"]: info for info in json.loads(run("solvers", "--json").stdout)}
    assert listed["patterns"]["available"]
    assert listed["plugged"]["available"] == (case in LOADS)
    if case not in LOADS:
        assert says in listed["plugged"]["problem"]
        assert "plugged_solver:Plugged" in listed["plugged"]["problem"]
    run("solvers")


def test_a_comparison_of_all_solvers_goes_on_without_it(plug_in, monkeypatch):
    _, says = plug_in
    monkeypatch.setattr(registry, "BUILTIN", {name: registry.BUILTIN[name] for name in ("bi-nm", "patterns")})
    monkeypatch.setattr(registry, "REFERENCES", ())
    quick = ("--repeats", "1", "--seconds-per-solver", "0.01")
    result = run("compare", "-p", "2:4", "--all-solvers", *quick)
    assert "left out: solver 'plugged'" in one_line(result.stderr)
    assert says in one_line(result.stderr)
    assert "bi-nm" in result.stdout
    assert "plugged" not in result.stdout
    assert says in one_line(run("compare", "-p", "2:4", "--solvers", "bi-nm,plugged", *quick, code=None).stderr)


def test_who_asks_for_it_gets_an_error_of_this_package(plug_in):
    _, says = plug_in
    with pytest.raises(tmask.TmaskError, match="plugged") as raised:
        tmask.solve(np.ones((4, 4)), "2:4", "plugged")
    assert says in str(raised.value)


def test_auto_goes_on_without_a_library_that_is_broken(monkeypatch, tmp_path, caplog):
    (tmp_path / "broken_midpoint.py").write_text("raise RuntimeError('numba needs another numpy')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_broken", set())
    registry._say_once.cache_clear()
    import tmask_solvers

    monkeypatch.setattr(tmask_solvers, "__path__", [*tmask_solvers.__path__, str(tmp_path)])
    monkeypatch.setitem(registry.BUILTIN, "midpoint", registry.Entry("broken_midpoint:Midpoint"))
    for _ in range(2):
        assert tmask.solve(np.ones((4, 4)), "2:4").solver == "augmenting-paths"
    said = "'auto' passes over a solver: solver 'midpoint': its library cannot be loaded: numba needs another numpy"
    assert caplog.text.count(said) == 1
    with pytest.raises(tmask.SolverUnavailableError, match="its library cannot be loaded: numba needs another numpy"):
        tmask.get_solver("midpoint")


def test_a_registered_class_is_looked_at_too():
    with pytest.raises(tmask.InvalidProblemError, match="does not implement _solve"):
        tmask.register_solver(type("Empty", (tmask.Solver,), {"__dataclass_fields__": {}, "name": "x", "exact": True}))

import subprocess
import sys
import textwrap
from dataclasses import dataclass
from importlib.metadata import metadata
from typing import ClassVar

import numpy as np
import pytest

import tmask
from tmask import Answer, Solver
from tmask.solving import entry, registry


def test_unknown_solvers_are_answered_with_those_that_exist():
    with pytest.raises(tmask.UnknownSolverError, match=r"unknown solver 'nope'.*augmenting-paths"):
        tmask.get_solver("nope")


def test_a_missing_library_is_answered_with_the_pip_line(monkeypatch):
    missing = registry.Entry("networkx_simplex:NetworkxSimplex", ("no_such_library",), "networkx")
    monkeypatch.setitem(registry.BUILTIN, "networkx-simplex", missing)
    assert "networkx-simplex" not in tmask.available_solvers()
    with pytest.raises(tmask.SolverUnavailableError, match=r'pip install "tmask\[networkx\]"'):
        tmask.get_solver("networkx-simplex")


def test_a_broken_library_is_named(monkeypatch):
    monkeypatch.setitem(registry.BUILTIN, "networkx-simplex", registry.Entry("no_such_file:X", (), ""))
    with pytest.raises(tmask.SolverUnavailableError, match="its library cannot be loaded: No module named"):
        tmask.get_solver("networkx-simplex")


def test_auto_is_no_solver_of_its_own():
    with pytest.raises(tmask.InvalidProblemError, match="depends on the pattern"):
        tmask.get_solver("auto")


def test_auto_takes_what_is_there(monkeypatch):
    assert tmask.solve(np.ones((4, 4)), "2:4").solver == registry.AUTO[0]
    for name in registry.AUTO[:-1]:
        known = registry.BUILTIN[name]
        monkeypatch.setitem(registry.BUILTIN, name, registry.Entry(known.target, ("no_such_library",), known.extra))
    assert tmask.solve(np.ones((4, 4)), "2:4").solver == registry.AUTO[-1]
    with pytest.raises(tmask.SolverUnavailableError, match="pip install"):
        tmask.solve(np.ones((8, 8)), "4:8")


def test_what_is_installed_is_looked_for_once_and_what_is_not_each_time(monkeypatch):
    """It takes as long as a small solve; but a notebook may install what is missing, and go on."""
    looked, there = [], set()
    monkeypatch.setattr(entry, "_installed", set())
    monkeypatch.setattr(entry.importlib.util, "find_spec", lambda name: (looked.append(name), name in there or None)[1])
    assert entry.missing_modules(["late"]) == entry.missing_modules(["late"]) == ("late",)
    there.add("late")
    assert entry.missing_modules(["late"]) == entry.missing_modules(["late"]) == ()
    assert looked == ["late"] * 3


def test_every_extra_is_in_the_project_file():
    extras = set(metadata("tmask").get_all("Provides-Extra") or ())
    assert {one.extra for one in registry.BUILTIN.values() if one.extra} <= extras


def test_a_class_can_be_registered_for_this_process(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})

    @tmask.register_solver
    @dataclass(frozen=True)
    class Circulant(Solver):
        """The same mask for every block."""

        shift: int = 0
        name: ClassVar[str] = "circulant"
        exact: ClassVar[bool] = False

        def _solve(self, scores, n):
            side = scores.shape[1]
            offset = (np.arange(side)[None] - np.arange(side)[:, None] + self.shift) % side
            return Answer(np.broadcast_to(offset < n, scores.shape).copy())

    assert "circulant" in tmask.available_solvers()
    assert tmask.solve(np.eye(4, dtype=np.float32), "2:4", "circulant", shift=0).objective == 4
    with pytest.raises(tmask.InvalidProblemError, match="exists already"):
        tmask.register_solver(type("Other", (Circulant,), {}))


@pytest.mark.parametrize("thing", [int, 3, Solver])
def test_only_dataclasses_over_solver_can_be_registered(thing):
    with pytest.raises(tmask.InvalidProblemError, match="not a dataclass that extends"):
        tmask.register_solver(thing)


def test_the_name_of_a_built_in_solver_is_taken():
    cls = registry.solver_class("bi-nm")
    with pytest.raises(tmask.InvalidProblemError, match="exists already"):
        tmask.register_solver(cls)


def test_another_package_brings_a_solver(tmp_path):
    """A tiny third-party package, installed as pip leaves it on disk, used by name in a fresh process."""
    (tmp_path / "tiny_solver.py").write_text(
        textwrap.dedent("""
        from dataclasses import dataclass
        from typing import ClassVar
        import numpy as np
        from tmask import Answer, Solver

        @dataclass(frozen=True)
        class Tiny(Solver):
            "Keeps a band along the diagonal."
            name: ClassVar[str] = "tiny"
            exact: ClassVar[bool] = False

            def _solve(self, scores, n):
                i = np.arange(scores.shape[1])
                return Answer(np.broadcast_to((i[None] - i[:, None]) % len(i) < n, scores.shape).copy())
        """)
    )
    info = tmp_path / "tiny_solver-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-solver\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tmask.solvers]\ntiny = tiny_solver:Tiny\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import numpy as np, tmask\n"
        "assert 'tiny' in tmask.available_solvers()\n"
        "assert 'tiny_solver' not in sys.modules\n"
        "s = tmask.solve(np.ones((8, 8), np.float32), '2:4', 'tiny')\n"
        "tmask.check_mask(s.mask, '2:4'); print(s.solver)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=None, check=False)
    assert result.stdout.strip() == "tiny", result.stderr

"""What a person at a terminal meets first: help, examples, completion, misspelt names, and how much is said."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import typer
from safetensors.numpy import save_file

from tests.cli.harness import one_line, run, solve
from tmask.cli import app
from tmask.cli.help.examples import EXAMPLES, SHORT
from tmask.solving import registry

compare = import_module("tmask.cli.compare")  # the module, which its command hides

COMMANDS = typer.main.get_command(app).commands
SCREEN = 50  # lines of a terminal window
QUICK = ("--repeats", "1", "--seconds-per-solver", "0.02")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = run(name, "-h").stdout.splitlines()
    assert len(lines) <= (SCREEN if name != "prune" else 60)
    assert max(map(len, lines)) <= 80
    assert lines == run(name, "--help").stdout.splitlines()
    for parameter in COMMANDS[name].params:
        assert parameter.opts[0] in "\n".join(lines)


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_read_as_they_stand(name):
    assert SHORT[name] in run("-h").stdout
    for example in EXAMPLES[name]:
        program, command, *args = shlex.split(example)
        assert (program, command) == ("tmask", name)
        COMMANDS[name].make_context(name, args)  # raises for an option that is not there
        assert example in run(name, "-h").stdout


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        ("tmask sol", {"solve", "solvers"}),
        ("tmask solve -s greedy-k", {"greedy-keep"}),
        ("tmask compare --solver midpoint,bi", {"midpoint,bi-nm"}),
    ],
)
def test_a_shell_completes_commands_and_solvers(words, offers):
    env = os.environ | {
        "_TMASK_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)
    }  # fmt: skip
    script = "import sys; sys.argv = ['tmask']; from tmask.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert set(done.stdout.split()) == offers


@pytest.mark.parametrize(
    ("name", "meant"), [("midpiont", "midpoint"), ("greedy_keep", "greedy-keep"), ("Ortools-Flow", "ortools-flow")]
)
def test_a_misspelt_solver_is_guessed(weights, name, meant):
    for args in (
        ("solve", weights, "-p", "2:4", "-o", weights.parent / "m.safetensors", "-s", name),
        ("compare", weights, "-s", name),
    ):
        assert f"unknown solver '{name}'; did you mean '{meant}'?" in one_line(run(*args, code=2).stderr)
    assert "did you mean" not in one_line(run("compare", weights, "-s", "xyz", code=2).stderr)


@pytest.mark.parametrize(
    "names", [("-s", "bi-nm", "-s", "patterns"), ("--solver", "bi-nm,patterns"), ("--solvers", "bi-nm,patterns")]
)
@pytest.mark.parametrize("patterns", [("-p", "2:4", "-p", "1:4"), ("--pattern", "2:4, 1:4")])
def test_names_and_patterns_repeat_or_take_commas(weights, names, patterns):
    rows = json.loads(run("compare", weights, *names, *patterns, *QUICK, "--json").stdout)["summaries"]
    assert [(row["solver"], row["n"]) for row in rows] == [("bi-nm", 2), ("patterns", 2), ("bi-nm", 1), ("patterns", 1)]


def test_one_tensor_that_is_left_out_is_told_of_in_the_singular(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"fc.weight": np.eye(8, dtype=np.float32), "fc.bias": np.ones(8, np.float32)}, path)
    said = one_line(run("solve", path, "-p", "2:4", "-o", tmp_path / "m.safetensors").stderr)
    assert "1 tensor gets no mask and was left out: 1-D, no matrix: fc.bias" in said


@pytest.fixture
def many(tmp_path):
    """A file in which a hundred tensors get no mask, for one reason, and one for another."""
    tensors = {f"layers.{k}.norm.weight": np.ones(8, np.float32) for k in range(100)}
    path = tmp_path / "model.safetensors"
    save_file(tensors | {"tiny": np.ones((2, 2), np.float32), "fc.weight": np.eye(8, dtype=np.float32)}, path)
    return path


def test_what_is_left_out_is_one_line_unless_asked_for(many):
    for args in (
        ("solve", many, "-p", "2:4", "-o", many.parent / "m.safetensors", "--overwrite"),
        ("compare", many, "-p", "2:4", "-s", "bi-nm", *QUICK),
        ("diversity", many, "-p", "2:4"),
    ):
        said = one_line(run(*args).stderr)
        assert "101 tensors get no mask" in said
        assert "(100)" in said
        assert "tiny" in said
        assert "--verbose names them" in said
        assert "layers.7.norm" not in said
        told = one_line(run(*args, "--verbose").stderr)
        assert all(f"layers.{k}.norm.weight" in told for k in range(100))
        assert "--verbose" not in told


def test_quiet_says_nothing_but_results_and_errors(weights):
    assert solve(weights).stderr != ""
    result = solve(weights, "--quiet", "--overwrite")
    assert result.stderr == ""
    assert "fc1.weight" in result.stdout
    assert solve(weights, "--overwrite").stderr != ""  # it does not outlast its command
    assert "exists" in solve(weights, "-q", code=4).stderr


def test_solvers_are_judged_on_the_same_blocks(tmp_path, monkeypatch):
    """One that has time for a few blocks does not look better than the optimum of many."""
    path = tmp_path / "w.npy"
    rng = np.random.default_rng(0)
    np.save(path, (rng.standard_normal((256, 256)) * rng.lognormal(0, 2, (256, 1))).astype(np.float32))
    from tmask.comparison.runs import _Trial

    plan = _Trial.plan

    def few(self, seconds):
        plan(self, seconds)
        if self.solver.name == "bi-nm":
            self.size = 5

    monkeypatch.setattr(_Trial, "plan", few)
    args = ("compare", path, "-p", "2:4", "-s", "patterns,bi-nm", "--repeats", 1, "--seconds-per-solver", 20)
    exact, rough = json.loads(run(*args, "--json").stdout)["summaries"]
    assert (exact["blocks"], rough["blocks"]) == (64 * 64, 5)
    assert exact["judged"] == rough["judged"] == 5
    assert rough["retained"] < exact["retained"]
    assert rough["of_optimum"] < exact["of_optimum"] == 1
    assert "judged on the same 5 blocks" in run(*args).stdout


def test_a_table_that_is_piped_fits_the_width_that_is_asked_for(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, run("compare", "-p", "2:4", "-s", "bi-nm", *QUICK).stdout.splitlines()[1:6])) <= 60


def test_all_that_is_not_installed_is_one_line(weights, monkeypatch):
    """A first comparison ended in nine lines of what else there is."""
    lost = registry.Entry("patterns:Patterns", ("no_such_library",), "one")
    for name, extra in (("pulp-cbc", "pulp"), ("ortools-flow", "ortools"), ("ortools-cpsat", "ortools")):
        monkeypatch.setitem(registry.BUILTIN, name, replace(lost, extra=extra))
    monkeypatch.setitem(registry.BUILTIN, "midpoint-cuda", replace(lost, extra="cuda", gpu=True))
    monkeypatch.setattr(compare, "_DEFAULT", ("bi-nm",))
    lines = [
        line for line in run("compare", weights, "-p", "2:4", *QUICK).stderr.splitlines() if "not installed" in line
    ]
    assert lines == [
        'not installed: ortools-flow, ortools-cpsat, pulp-cbc; run: pip install "tmask[ortools,pulp]"',
        'not installed: midpoint-cuda; run: pip install "tmask[cuda]", on a machine with an NVIDIA GPU',
    ]

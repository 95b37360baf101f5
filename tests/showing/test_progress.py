"""One kind of progress: a function, or True for a bar where somebody looks."""

import importlib
import io
import logging
import sys
import types

import numpy as np
import pytest

import tmask
from tmask.showing import progress
from tmask.showing.notes import tell
from tmask.showing.progress import in_notebook, reporting


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def notebook(monkeypatch):
    """A notebook's kernel, as far as this package looks; a list of what it shows."""
    shown = []
    handle = types.SimpleNamespace(update=lambda html: shown.append(html))
    display = types.SimpleNamespace(
        HTML=lambda text: text, display=lambda html, display_id: shown.append(html) or handle
    )
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    real = importlib.import_module
    chosen = lambda name: display if name == "IPython.display" else real(name)  # noqa: E731
    monkeypatch.setattr(progress.importlib, "import_module", chosen)
    return shown


def test_a_function_is_called_as_it_is():
    def follow(done, total, name): ...

    with reporting(follow, "x") as call:
        assert call is follow


@pytest.mark.parametrize("nothing", [None, False])
def test_nothing_is_said_to_those_who_do_not_ask(nothing, capsys):
    with reporting(nothing, "x") as call:
        call(1, 2, "a")
    assert capsys.readouterr() == ("", "")


def test_a_bar_is_silent_in_a_pipe(capsys):
    with reporting(True, "x") as call:
        call(1, 2, "a")
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with reporting(True, "pruning") as call:
        call(3, 7, "block 4")
    assert "pruning block 4" in stream.getvalue()
    assert "3/7" in stream.getvalue()


def test_a_bar_on_a_terminal_shows_no_escapes(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with reporting(True, "pruning") as call:
        call(3, 7, "a\x1b[31m\u202eb")
    assert r"pruning a\x1b[31m\u202eb" in stream.getvalue()
    assert "\u202e" not in stream.getvalue()


def test_a_bar_in_a_notebook(notebook):
    with reporting(True, "<x>") as call:
        call(3, 7, "a")
        call(7, 7, "")
    assert notebook[0] == "&lt;x&gt; <progress></progress> 0 of 0 "
    assert notebook[-2] == '&lt;x&gt; <progress value="7" max="7"></progress> 7 of 7 '
    assert notebook[-1] == ""


def test_this_process_is_no_notebook():
    assert not in_notebook()


def test_what_takes_long_is_told_to_a_person(monkeypatch, caplog, capsys):
    caplog.set_level(logging.WARNING, "tmask")
    tell("compiling")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "stderr", Terminal())
    tell("compiling")
    assert sys.stderr.getvalue() == "tmask: compiling\n"


def test_what_takes_long_is_told_in_a_notebook(notebook, caplog, capsys):
    caplog.set_level(logging.WARNING, "tmask")
    tell("compiling")
    assert capsys.readouterr().err == "tmask: compiling\n"


def test_a_comparison_counts_its_steps():
    steps = []
    tmask.compare(
        np.ones((8, 8), np.float32), "2:4", ["patterns", "bi-nm"], repeats=2, seconds_per_solver=0.01,
        progress=lambda done, total, name: steps.append((done, total, name)),
    )  # fmt: skip
    assert steps[0] == (0, 7, "patterns: warming up")
    assert steps[-1] == (7, 7, "")
    assert [done for done, _, _ in steps] == list(range(8))

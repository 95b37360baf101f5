"""A compilation is announced, once; what is compiled already is not."""

import logging
import subprocess
import sys

import numba

import tmask_solvers
from tmask.cli.console import NoteHandler
from tmask_solvers.shared import announce
from tmask_solvers.shared.announce import announced


def test_only_what_is_compiled_is_announced(caplog):
    function = numba.njit(lambda x: x + 1)
    with caplog.at_level(logging.INFO, "tmask"):
        with announced("a kernel"):
            assert (function(1), function(1.0)) == (2, 2.0)  # two compilations
        assert [record.getMessage() for record in caplog.records] == [
            "compiling a kernel: some seconds, once on this machine"
        ]
        with announced("it again"):
            function(1)
        function(True)  # outside
    assert len(caplog.records) == 1


def test_the_command_line_shows_it(capsys):
    record = logging.LogRecord("tmask", logging.INFO, __file__, 1, "compiling %s", ("a kernel",), None)
    NoteHandler().emit(record)
    assert capsys.readouterr().err.strip() == "compiling a kernel"


def test_kernels_that_nobody_announces_are_announced_all_the_same(caplog, monkeypatch):
    monkeypatch.setattr(announce.announce_all(), "silent", True)
    namespace = {"__name__": f"{tmask_solvers.__name__}.anywhere"}
    exec("def ours(x):\n    return x", namespace)
    ours = numba.njit(namespace["ours"])
    with caplog.at_level(logging.INFO, "tmask"):
        numba.njit(lambda x: x)(1)  # a user's own
        nowhere = {}
        exec("def of_no_module(x):\n    return x", {"__name__": None}, nowhere)
        assert nowhere["of_no_module"].__module__ is None
        assert numba.njit(nowhere["of_no_module"])(1) == 1
        assert not caplog.records
        with announced("a kernel"):
            ours(1)
        assert [record.getMessage()[:18] for record in caplog.records] == ["compiling a kernel"]
        assert (ours(1.0), ours(True)) == (1.0, True)
    assert [record.getMessage()[:17] for record in caplog.records[1:]] == ["compiling kernels"]


FIRST = """
import logging, sys
import numpy as np, tmask

class Said(logging.Handler):
    def emit(self, record):
        print("numba" in sys.modules, record.getMessage())

logging.getLogger("tmask").addHandler(Said())
logging.getLogger("tmask").setLevel(logging.INFO)
tmask.get_solver(sys.argv[1]) if sys.argv[1] != "auto" else tmask.solve(np.ones((4, 4), np.float32), "2:4")
"""


def test_the_first_use_is_announced_before_numba_is_loaded(tmp_path, monkeypatch):
    """numba takes a third of a second to load, and half a second is what a person waits without a word."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))

    def said(solver):
        done = subprocess.run([sys.executable, "-c", FIRST, solver], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    assert said("bi-nm") == []
    early = "False kernels are compiled on first use, which takes some seconds, once on this machine"
    assert said("greedy-keep") == [early]
    assert said("auto")[0] == early
    assert said("auto") == []

"""A compilation is announced, once; what is compiled already is not."""

import logging

import numba

from tmask.cli.console import NoteHandler
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

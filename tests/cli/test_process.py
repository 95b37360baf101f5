"""The command as a process of its own: streams, exit codes, signals."""

from __future__ import annotations

import signal
import subprocess
import sys

import tmask
from tests.cli.harness import leftovers, one_line, process_of, waiting_command
from tmask.files.masks import read_masks

COMMAND = [sys.executable, "-m", "tmask.cli"]


def process(*args, code=0):
    result = subprocess.run([*COMMAND, *map(str, args)], capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result


def test_version_and_help():
    assert process("--version").stdout.strip() == f"tmask {tmask.__version__}"
    text = one_line(process("--help").stdout)
    for code in ("0 done", "1 a check failed", "2 wrong usage", "3 a solver", "4 the output", "130 interrupted"):
        assert code in text


def test_errors_are_one_line_on_stderr(weights):
    result = process("solve", weights, "-p", "2:4", "-o", "/no/such/folder/m", "--json", code=4)
    assert result.stdout == ""
    assert result.stderr.startswith("error: cannot write /no/such/folder/m")
    assert result.stderr.count("\n") == 1
    process("solve", code=2)


def test_ctrl_c_leaves_nothing_half_written_and_the_same_command_goes_on(weights):
    folder = weights.parent
    code, stderr = process_of(weights, signal.SIGINT)
    assert code == 130
    assert "Traceback" not in stderr
    assert "error: interrupted" in stderr
    assert "1 of 3 layers are finished and kept in" in one_line(stderr)
    assert leftovers(folder) == ["m.safetensors.partial", "reached"]
    (folder / "go").touch()
    again = subprocess.run(waiting_command(weights), capture_output=True, text=True, check=True)
    assert "resumed: 1 of 3" in one_line(again.stderr)
    assert leftovers(folder) == ["go", "m.safetensors", "reached"]
    assert len(read_masks(folder / "m.safetensors")) == 3


def test_importing_tmask_does_not_import_the_command_line():
    code = "import sys, tmask; print([m for m in sys.modules if m.startswith(('tmask.cli', 'rich', 'typer'))])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

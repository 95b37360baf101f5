"""Run commands in this process; small weights; solvers for tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from typer.testing import CliRunner, Result

import tmask
from tmask import Answer, Solver
from tmask.cli import app

RNG = np.random.default_rng(0)
TENSORS = {
    "conv.weight": RNG.standard_normal((8, 4, 3, 3)).astype(np.float32),
    "conv.bias": RNG.standard_normal(8).astype(np.float32),
    "embed.weight": RNG.standard_normal((8, 8)).astype(np.float32),
    "fc1.weight": RNG.standard_normal((16, 12)).astype(np.float32),
    "fc2.weight": RNG.standard_normal((10, 16)).astype(np.float16),
    "steps": np.arange(4),
}
LAYERS = {"conv.weight", "fc1.weight", "fc2.weight"}


def run(*args: object, code: int | None = 0) -> Result:
    """The result of a command, which must end with this exit code (None: any but 0) and without a traceback."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code or (code is None and result.exit_code), result.output
    return result


def solve(weights: Path, *args: object, code: int = 0, name: str = "masks.safetensors") -> Result:
    return run("solve", weights, "-p", "2:4", "-o", weights.parent / name, *args, code=code)


# A solver that waits at its second layer until the file `go` is there.
WAITING = """
import pathlib, signal, sys, time
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import ClassVar
import numpy as np, tmask
from tmask.cli import main

# As Python does by itself, but for a process whose parent ignores it (a job in the background).
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores
calls = []

@tmask.register_solver
@dataclass(frozen=True)
class Waiting(tmask.Solver):
    name: ClassVar[str] = "waiting"
    exact: ClassVar[bool] = False

    def _solve(self, scores, n):
        calls.append(1)
        folder = pathlib.Path(sys.argv[2]).parent
        while len(calls) == 2 and not (folder / "go").exists():
            (folder / "reached").touch()
            time.sleep(0.01)
        i = np.arange(scores.shape[1])
        return tmask.Answer(np.broadcast_to((i - i[:, None]) % len(i) < n, scores.shape).copy())

main()
"""


def waiting_command(weights: Path) -> list[object]:
    """Masks by the solver that waits."""
    output = weights.parent / "m.safetensors"
    return [sys.executable, "-c", WAITING, "solve", weights, "-p", "2:4", "-o", output, "--solver", "waiting"]


def process_of(weights: Path, number: signal.Signals) -> tuple[int, str]:
    """Exit code and stderr of a process that solves its second layer when it gets this signal."""
    started = subprocess.Popen(waiting_command(weights), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (weights.parent / "reached").exists():
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(started.pid, number)
    stdout, stderr = started.communicate(timeout=60)
    assert stdout == ""
    return started.returncode, stderr


def one_line(text: str) -> str:
    return " ".join(text.split())


def leftovers(folder: Path) -> list[str]:
    """What is in a folder beside the weights."""
    return sorted(path.name for path in folder.iterdir() if path.name != "model.safetensors")


@dataclass(frozen=True)
class Diagonals:
    """Settings of every type."""

    count: int
    limit: float | None = None
    label: str = "a"
    on: bool = False


@dataclass(frozen=True)
class Tiny(Diagonals, Solver):
    """Keeps n diagonals whatever the scores are."""

    name: ClassVar[str] = "tiny"
    exact: ClassVar[bool] = False

    def _solve(self, scores, n):
        i = np.arange(scores.shape[1])
        return Answer(np.broadcast_to((i - i[:, None]) % len(i) < n, scores.shape).copy())


@dataclass(frozen=True)
class Failing(Solver):
    """Fails on purpose."""

    name: ClassVar[str] = "failing"
    exact: ClassVar[bool] = False

    def _solve(self, scores, n):
        raise tmask.SolverFailedError("status 7")

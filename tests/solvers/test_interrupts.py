"""Ctrl-C while a backend is at work, native code included: it ends the run, and is never taken for a limit."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from tmask.solving.registry import solver_infos

NATIVE = ("ortools-flow", "ortools-cpsat", "ortools-pdlp", "pulp-cbc", "pulp-highs", "networkx-simplex", "midpoint")
MISSING = {info.name: info.missing for info in solver_infos()}

# As Python does by itself, but for a process whose parent ignores SIGINT (a job in the background).
HANDLER = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
SOLVE = """
import sys, numpy as np, tmask
name = sys.argv[1]
weight = np.random.default_rng(0).standard_normal((640, 640)).astype(np.float32)
tmask.solve(weight[:16, :16], "8:16", name)
print("ready", flush=True)
while True:
    solution = tmask.solve(weight, "8:16", name, certify=False)
    assert str(solution.status) != "limit", "the interrupt was taken for a limit"
"""
COMPARE = """
import sys, threading, time
from tmask.cli import main
threading.Thread(target=lambda: (time.sleep(3), print("ready", flush=True)), daemon=True).start()
sys.argv = ["tmask", "compare", "-p", "8:16", "--solvers", sys.argv[1], "--seconds-per-solver", "60"]
main()
"""


def interrupted(code: str, name: str) -> tuple[int, str]:
    """Exit code and stderr of a process that is interrupted while it solves."""
    command = [sys.executable, "-c", HANDLER + code, name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, stderr


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.skipif(bool(MISSING[n]), reason=f"needs {MISSING[n]}")) for n in NATIVE]
)
def test_solve_is_interrupted(name):
    code, stderr = interrupted(SOLVE, name)
    assert stderr.rstrip().endswith("KeyboardInterrupt")
    assert code in (1, -signal.SIGINT, 130)


@pytest.mark.skipif(bool(MISSING["ortools-cpsat"]), reason="needs ortools")
def test_compare_is_interrupted():
    code, stderr = interrupted(COMPARE, "ortools-cpsat")
    assert code == 130
    assert "error: interrupted" in stderr

"""Work in a process of its own, since the most memory that a process had never falls again."""

from __future__ import annotations

import multiprocessing
import re
import resource
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

_MIB = 2**20
ROOT = Path(__file__).parent.parent
# A command in a process that says at its end what it held at most.
_COMMAND = """
import runpy, sys
from bench.processes import host_peak
try:
    runpy.run_module("tmask", run_name="__main__")
finally:
    print(host_peak(), file=sys.stderr)
"""


def in_a_process(function: Any, *arguments: Any) -> Any:
    """What a function returns in a new process, which ends with it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def host_peak() -> float:
    """MiB of this process."""
    status = Path("/proc/self/status")
    # getrusage would do, but on Linux a new process begins with the peak of the one that started it.
    if status.is_file() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / _MIB if sys.platform == "darwin" else peak / 1024


def run_command(arguments: list[str], limit_mib: int | None = None) -> tuple[float, float]:
    """Wall-clock seconds of a command of `tmask`, and the peak of its process in MiB.

    Args:
        limit_mib: of its address space, as `ulimit -v` sets it.
    Raises:
        CalledProcessError: it fails.
    """
    begin = time.perf_counter()
    command = [sys.executable, "-c", _COMMAND, *arguments]
    if limit_mib is not None:
        command = ["bash", "-c", f'ulimit -v {limit_mib * 1024}; exec "$@"', "bash", *command]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - begin, float(done.stderr.split()[-1])

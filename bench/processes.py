"""Work in a process of its own, since the most memory that a process had never falls again."""

from __future__ import annotations

import multiprocessing
import re
import resource
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MIB = 2**20
ROOT = Path(__file__).parent.parent
# A command in a process that says at its end what it held at most, and its processor time.
_COMMAND = """
import os, runpy, sys
from bench.processes import host_peak
try:
    runpy.run_module("tmask", run_name="__main__")
finally:
    print(host_peak(), sum(os.times()[:2]), file=sys.stderr)
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a command: seconds by the clock, those of its process on a core, and the most MiB that this held."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


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


def run_command(arguments: list[str], limit_mib: int | None = None) -> Cost:
    """What a command of `tmask` costs, in a process of its own.

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
    seconds = time.perf_counter() - begin
    peak, cpu_seconds = map(float, done.stderr.split()[-2:])
    return Cost(seconds, cpu_seconds, peak)

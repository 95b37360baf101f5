"""Work in a process of its own, since the most memory that a process had never falls again."""

from __future__ import annotations

import multiprocessing
import re
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

_MIB = 2**20


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

"""How many threads a solver may start: as many cores as this process may use, on one level of parallelism alone."""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
import threading
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores of this process: by its affinity, the quota of its cgroup, and OMP_NUM_THREADS where it is set.

    1 in a process that another one has started to work for it, and in any thread but the main one: who has spread the
    work already has given each part its core. Launchers and pools that start processes in other ways (torchrun, joblib,
    dask) say so by OMP_NUM_THREADS.
    """
    if multiprocessing.parent_process() is not None or threading.current_thread() is not threading.main_thread():
        return 1
    limits = [_affinity(), _quota(_CGROUP), _omp(os.environ.get("OMP_NUM_THREADS", ""))]
    return max(1, math.floor(min(limits)))


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _omp(text: str) -> float:
    """OMP_NUM_THREADS, of which the first number is for the outermost level."""
    first = text.split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else math.inf


@functools.cache
def _quota(root: Path) -> float:
    """Processor time a second that a container may take; infinite without a limit.

    Source: the kernel's documentation of `cpu.max` (cgroup v2) and of `cpu.cfs_quota_us` (v1).
    """
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        except OSError:
            return math.inf
    return int(quota) / int(period) if quota.isdecimal() and int(period) else math.inf

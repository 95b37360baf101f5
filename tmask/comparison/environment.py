"""Where a measurement was made: the columns that go beside every row of results."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Those whose versions change results or times.
_LIBRARIES = ("numpy", "numba", "ortools", "pulp", "highspy", "networkx", "torch")


def environment() -> dict[str, str]:
    """Date, CPU, Python and library versions, as columns; a library that is not installed is ""."""
    columns = {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cpu": _cpu(),
        "python": platform.python_version(),
        "tmask": _version("tmask"),
    }
    return columns | {library: _version(library) for library in _LIBRARIES}


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _cpu() -> str:
    """The processor's model; hypervisors may hide it behind a general name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found: dict[str, str] = {}
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            # The first processor's; all have the same.
            found.setdefault(key.strip(), value.strip())
        # With the widest vectors it has, on which the compiled kernels' speed depends most.
        if "model name" in found:
            family = f"family {found.get('cpu family', '?')} model {found.get('model', '?')}"
            widest = next((f for f in ("avx512f", "avx2", "avx") if f in found.get("flags", "").split()), "")
            return f"{found['model name']} ({family}) {widest}".strip()
    return platform.processor() or platform.machine()

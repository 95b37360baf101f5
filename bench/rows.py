"""Where rows lie, how they are read again, and the commit that they were measured at."""

from __future__ import annotations

import csv
import os
import subprocess
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def commit() -> str:
    """The commit that is measured, "+" behind it if files differ; outside a checkout what BENCH_COMMIT says, or "".

    A machine with a GPU often gets the files alone, and without git.
    """
    git = ("git", "-C", str(Path(__file__).parent))
    try:
        head = subprocess.run(
            (*git, "rev-parse", "--short", "HEAD"), capture_output=True, text=True, check=False
        ).stdout
    except FileNotFoundError:
        head = ""
    if not head:
        return os.environ.get("BENCH_COMMIT", "")
    changed = subprocess.run((*git, "diff", "--quiet", "HEAD", "--", ".."), check=False).returncode
    return head.strip() + ("+" if changed else "")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of an earlier run, as texts."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))

"""Where rows lie, how they are read again, and the commit that they were measured at."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def commit() -> str:
    """The commit that is measured, "+" behind it if files differ; "" outside a checkout."""
    git = ("git", "-C", str(Path(__file__).parent))
    head = subprocess.run((*git, "rev-parse", "--short", "HEAD"), capture_output=True, text=True, check=False)
    # Outside a checkout `git diff` fails too, and must not read as changed files.
    changed = (
        subprocess.run((*git, "diff", "--quiet", "HEAD", "--", ".."), check=False).returncode if head.stdout else 0
    )
    return head.stdout.strip() + ("+" if changed else "")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of an earlier run, as texts."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))

"""CSV files of rows, as commands and benchmarks write them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tmask.files.atomic import atomic_path


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], overwrite: bool) -> None:
    """Rows with the columns of the first, whole or not at all.

    Raises:
        OutputError: the file cannot be written, or exists and must stay.
    """
    # The csv module ends lines by itself: without newline="" Windows would end them twice.
    with atomic_path(path, overwrite) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

"""CSV files of rows, as commands and benchmarks write them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tmask.errors import FileFormatError
from tmask.files.atomic import atomic_path
from tmask.files.damage import is_text


def check_texts(texts: Iterable[str]) -> None:
    """Return if a CSV file can hold these texts; to be asked before long work as well.

    Raises:
        FileFormatError: one holds half a character.
    """
    for text in texts:
        if not is_text(text):
            raise FileFormatError(f"{text!r} cannot be in a CSV file, whose letters are UTF-8; rename it")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], overwrite: bool) -> None:
    """Rows with the columns of the first, whole or not at all.

    Raises:
        OutputError: the file cannot be written, or exists and must stay.
        FileFormatError: a text that no CSV file can hold.
    """
    check_texts(value for row in rows for value in row.values() if isinstance(value, str))
    # The csv module ends lines by itself: without newline="" Windows would end them twice.
    with atomic_path(path, overwrite) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

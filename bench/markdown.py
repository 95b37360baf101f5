"""Pages of results in markdown, drawn from rows of CSV alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tabulate import tabulate

from tmask.files.atomic import atomic_path


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells stay as they are: numbers are rounded before, and a parser would write 1.50 as 1.5."""
    return str(tabulate(rows, headers=header, tablefmt="github", disable_numparse=True))


def write_page(csv: Path, text: str) -> Path:
    """The page CSV.md beside the CSV, replaced whole."""
    page = csv.with_suffix(".md")
    with atomic_path(page) as temporary:
        temporary.write_text(text)
    return page

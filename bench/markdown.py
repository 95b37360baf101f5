"""Pages of results in markdown, drawn from rows of CSV alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tmask.files.atomic import atomic_path


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells stay as they are: numbers are rounded before.

    Written here, since machines with a GPU have few libraries, and the benchmarks must end with a table there too.
    """
    names = [name.strip() for name in header]
    lines = [[cell.strip() for cell in row] for row in rows]
    widths = [max([len(name) + 2, *(len(line[k]) for line in lines)]) for k, name in enumerate(names)]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join((_line(names, widths), rule, *(_line(line, widths) for line in lines)))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def write_page(csv: Path, text: str) -> Path:
    """The page CSV.md beside the CSV, replaced whole."""
    page = csv.with_suffix(".md")
    with atomic_path(page) as temporary:
        temporary.write_text(text)
    return page

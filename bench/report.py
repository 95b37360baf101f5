"""Plots and a table from the benchmark's CSV alone.

python -m bench.report [CSV]
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import markdown
from bench.rows import RESULTS, read_rows
from tmask.errors import FileFormatError
from tmask.plots.comparison import draw_plots

Rows = list[dict[str, Any]]


def cell(rows: Rows) -> str:
    """Microseconds a block (median), and mean gap in per cent, of one solver on one case and pattern."""
    good = [row for row in rows if not row["failure"]]
    if not rows:
        return ""
    if not good:
        return "failed"
    micro = statistics.median(1e6 * float(row["seconds"]) / int(row["blocks"]) for row in good)
    # Any repeat will do: they see the same blocks.
    gap = 100 * float(good[0]["gap_mean"])
    return f"{micro:.3g} / {gap:.3g}"


def table(rows: Rows, case: str) -> str:
    """A markdown table of one case: solvers down, patterns across."""
    rows = [row for row in rows if row["case"] == case]
    patterns = list(dict.fromkeys((int(row["n"]), int(row["m"])) for row in rows))
    solvers = list(dict.fromkeys(row["solver"] for row in rows))

    def cells(solver: str) -> list[str]:
        own = [row for row in rows if row["solver"] == solver]
        return [cell([row for row in own if (int(row["n"]), int(row["m"])) == pattern]) for pattern in patterns]

    header = ["solver", *(f"{n}:{m}" for n, m in patterns)]
    return markdown.table(header, [[solver, *cells(solver)] for solver in solvers])


def main(csv: Annotated[Path, typer.Argument(help="Rows of bench.run.")] = RESULTS / "solvers.csv") -> None:
    """Write CSV.md and the plots beside the CSV."""
    rows = read_rows(csv)
    if not rows:
        raise FileFormatError(f"{csv} has no rows; run `python -m bench.run` first")
    cases = list(dict.fromkeys(row["case"] for row in rows))
    first = rows[0]
    text = (
        f"# {csv.stem}\n\nMicroseconds a block (median of the repeats) / mean proven gap in per cent. Drawn from "
        f"`{csv.name}`: commit {first['commit']}, {first['cpu']}, threads: {first['threads']}, {first['date'][:10]}.\n"
    )
    for case in cases:
        text += f"\n## {case}\n\n{table(rows, case)}\n"
    for path in (markdown.write_page(csv, text), *draw_plots(csv, csv.parent)):
        print(path)


if __name__ == "__main__":
    typer.run(main)

"""The table of bench.gpu, from its rows alone; it goes beside them, too.

python -m bench.gpu_report [CSV]
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any

import typer

from bench import markdown
from bench.rows import RESULTS, read_rows

Row = dict[str, Any]


def report(rows: list[Row]) -> str:
    """Markdown: for each device, dtype and size a table of solvers by patterns.

    A cell holds the median in milliseconds with its spread (half the distance of the quartiles), then how many times
    the floor it is; for the memory lines GB/s in place of that.
    """
    groups: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["device"], row["dtype"], int(row["side"])].append(row)
    texts = []
    for (device, dtype, side), part in groups.items():
        patterns = list(dict.fromkeys(f"{row['n']}:{row['m']}" for row in part))
        labels = dict.fromkeys((row["call"], row["solver"]) for row in part)
        lines = [*(_line(label, part, patterns) for label in labels), *_extra_lines(part, patterns)]
        texts.append(f"### {side} x {side}, {dtype}, {device}\n\n{markdown.table(['ms', *patterns], lines)}")
    return "\n\n".join(texts) + "\n"


def _line(label: tuple[str, str], rows: list[Row], patterns: list[str]) -> list[str]:
    call, solver = label
    cells = []
    for pattern in patterns:
        own, floor = _seconds(rows, pattern, label), _seconds(rows, pattern, ("memory", "floor"))
        if not own:
            cells.append("")
            continue
        middle = median(own)
        text = f"{1000 * middle:.3g}" + (f" ± {1000 * _spread(own):.1g}" if len(own) > 1 else "")
        if call == "memory":
            num_bytes = next(float(row["bytes"]) for row in rows if (row["call"], row["solver"]) == label)
            cells.append(f"{text} ({num_bytes / middle / 1e9:.3g} GB/s)")
        else:
            cells.append(f"{text} ({middle / median(floor):.3g} x)" if floor else text)
    return [f"{call}: `{solver}`", *cells]


def _extra_lines(rows: list[Row], patterns: list[str]) -> list[list[str]]:
    """First calls, and the share of blocks that the rounds leave."""
    lines = []
    for solver in dict.fromkeys(row["solver"] for row in rows if row["call"] == "masks"):
        firsts = [_seconds(rows, pattern, ("masks", solver), first=True) for pattern in patterns]
        cells = [f"{1000 * first[0]:.3g}" if first else "" for first in firsts]
        lines.append([f"first call: `{solver}`", *cells])
    left = {f"{row['n']}:{row['m']}": row["left"] for row in rows if row["left"] != ""}
    cells = [f"{100 * float(left[pattern]):.3g} %" if pattern in left else "" for pattern in patterns]
    return [*lines, ["blocks that rounds leave", *cells]]


def _seconds(rows: list[Row], pattern: str, label: tuple[str, str], first: bool = False) -> list[float]:
    return [
        float(row["seconds"])
        for row in rows
        if f"{row['n']}:{row['m']}" == pattern
        and (row["call"], row["solver"]) == label
        and (int(row["repeat"]) < 0) == first
    ]


def _spread(values: list[float]) -> float:
    low, _, high = quantiles(values, n=4)
    return (high - low) / 2


def main(csv: Annotated[Path, typer.Argument(help="Rows of bench.gpu.")] = RESULTS / "gpu.csv") -> None:
    """Print the table, and write it beside the rows."""
    text = report(list(read_rows(csv)))
    print(text)
    markdown.write_page(csv, text)


if __name__ == "__main__":
    typer.run(main)

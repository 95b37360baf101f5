"""What ties cost: `midpoint` on matrices made to tie, against normal ones of the same shape, on one thread.

    python -m bench.corners [--patterns 4:8,8:16,16:32] [--repeats 9] [--out CSV]

Each row is one turn of `tmask.solve`, checks and proof included, all cases in turn, so that a slow moment of the
machine hits all of them. Printed is the median over that of normal blocks, and its quartiles over the turns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bench import markdown
from bench.cases import CASES, Case
from bench.matrix import COLUMNS
from bench.matrix_calls import SIDE, matrix, solving
from bench.rows import RESULTS, commit
from bench.turns import measure
from tmask.blocks.pattern import Pattern
from tmask.comparison.environment import environment
from tmask.files.atomic import check_output
from tmask.files.csv_files import write_csv

_ULP = 2.0**-23
CORNERS = (
    *(case for case in CASES if case.name in ("normal", "half-zeros", "small-integers")),
    Case("zero or one", 8, lambda rng, shape: rng.integers(0, 2, shape).astype(np.float32)),
    Case("two values an ulp apart", 9, lambda rng, shape: 1 + _ULP * rng.integers(0, 2, shape)),
    Case("four values an ulp apart", 10, lambda rng, shape: 0.7 + _ULP * rng.integers(0, 4, shape)),
    Case("powers of two over 2^22", 11, lambda rng, shape: 2.0 ** -rng.integers(0, 22, shape)),
    Case("powers of two over 2^90", 12, lambda rng, shape: 2.0 ** -rng.integers(0, 90, shape)),
)


def ratios(rows: list[dict[str, Any]], name: str) -> str:
    """Seconds of a case over those of normal blocks in the same turn: the median, and the quartiles."""
    seconds = {(row["case"], row["repeat"]): row["seconds"] for row in rows}
    turns = {row["repeat"] for row in rows}
    low, middle, high = np.percentile([seconds[name, k] / seconds["normal", k] for k in turns], (25, 50, 75))
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def main(
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = RESULTS / "corners.csv",
    patterns: Annotated[str, typer.Option(help="N:M, separated by commas.")] = "4:8,8:16,16:32",
    repeats: Annotated[int, typer.Option(help="Turns.")] = 9,
    side: Annotated[int, typer.Option(help="Of the square matrices.")] = SIDE,
) -> None:
    """Run the benchmark and print its ratios."""
    check_output(out, overwrite=True)
    machine = {"commit": commit()} | environment()
    rows: list[dict[str, Any]] = []
    table: dict[str, list[str]] = {case.name: [] for case in CORNERS}
    for text in patterns.split(","):
        pattern = Pattern.parse(text)
        calls = {case.name: solving(matrix(case, pattern, side), pattern, "midpoint", threads=1) for case in CORNERS}
        made = [
            {"part": "corners", "case": row["solver"], "n": pattern.n, "m": pattern.m, "side": side}
            | {"dtype": "float32"} | row | {"solver": "midpoint"}
            for row in measure(calls, repeats)
        ]  # fmt: skip
        rows += [dict.fromkeys(COLUMNS, "") | row | machine for row in made]
        for name, cells in table.items():
            cells.append(ratios(made, name))
    write_csv(out, rows, overwrite=True)
    print(markdown.table(["", *patterns.split(",")], [[name, *cells] for name, cells in table.items()]))


if __name__ == "__main__":
    typer.run(main)

"""`tmask.solve` as a user calls it, on whole matrices: ratios, threads, dtypes, a cost curve, proofs by the million.

    python -m bench.matrix [--weights FILE] [--parts ratios,curve,...]

Every row is one call, from the weight to the Solution, checks and proof included (heuristics without: their bound
would cost the exact optimum). Calls of a group run in turn, so that a slow moment of the machine hits all of them. Slow
solvers see fewer rows of the same matrix; compare microseconds a block.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.cases import CASES, weight_case
from bench.matrix_calls import SIDE
from bench.matrix_parts import PARTS
from bench.rows import RESULTS, commit, read_rows
from tmask.blocks.pattern import Pattern
from tmask.comparison.environment import environment
from tmask.errors import InvalidProblemError
from tmask.files.atomic import check_output
from tmask.files.csv_files import write_csv

PATTERNS = tuple(Pattern.parse(text) for text in ("1:4", "2:4", "2:8", "4:8", "8:16", "16:32"))
COLUMNS = (
    *("part", "case", "n", "m", "side", "dtype", "solver", "threads", "repeat", "calls", "seconds", "solver_seconds"),
    *("blocks", "objective", "dual_bound", "gap", "proven"),
)


def main(
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = RESULTS / "matrix.csv",
    weights: Annotated[Path | None, typer.Option(help="A weight file as one more case.")] = None,
    parts: Annotated[str, typer.Option(help="Names, separated by commas; the CSV's other parts stay.")] = "",
    patterns: Annotated[str, typer.Option(help="N:M, separated by commas; all if empty.")] = "",
) -> None:
    """Run the benchmark."""
    wanted = parts.split(",") if parts else list(PARTS)
    if unknown := [name for name in wanted if name not in PARTS]:
        raise InvalidProblemError(f"no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    chosen = [Pattern.parse(text) for text in patterns.split(",")] if patterns else list(PATTERNS)
    check_output(out, overwrite=True)
    cases = [next(case for case in CASES if case.name == "normal")]
    if weights is not None:
        cases.append(weight_case(weights))
    machine = {"commit": commit()} | environment()
    rows = [row for row in read_rows(out) if row["part"] not in wanted]
    for part in wanted:
        for pattern in chosen:
            print(f"{part} {pattern}", file=sys.stderr)
            made = (
                {"part": part, "n": pattern.n, "m": pattern.m, "side": SIDE, "dtype": "float32"} | row
                for row in PARTS[part](pattern, cases)
            )
            rows += [dict.fromkeys(COLUMNS, "") | row | machine for row in made]
        # After each part, so that an interrupt loses one at most.
        write_csv(out, rows, overwrite=True)
    print(f"{len(rows)} rows in {out}")


if __name__ == "__main__":
    typer.run(main)

"""Every solver on every case and pattern: one CSV row per run.

    python -m bench.run [--weights FILE] [--resume] ...

Solvers run in turn on the same blocks, so that a slow moment of the machine hits all of them; slow ones see fewer
blocks. Rows are written after each case and pattern, whole files at a time, so an interrupted run loses one of these.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from bench.cases import CASES, PATTERNS, Case, weight_case
from bench.progress import progress_bar
from bench.rows import RESULTS, commit, read_rows
from tmask.blocks.pattern import Pattern
from tmask.comparison.environment import environment
from tmask.comparison.runs import compare
from tmask.errors import InvalidProblemError
from tmask.files.atomic import check_output
from tmask.files.csv_files import write_csv
from tmask.solving.registry import available_solvers, solver_class

# Blocks offered; what a solver sees of them is bounded by time.
_ENTRIES = 1 << 20


def main(
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = RESULTS / "solvers.csv",
    weights: Annotated[Path | None, typer.Option(help="A weight file as one more case.")] = None,
    cases: Annotated[str, typer.Option(help="Names, separated by commas; all if empty.")] = "",
    patterns: Annotated[str, typer.Option(help="N:M, separated by commas; all if empty.")] = "",
    solvers: Annotated[str, typer.Option(help="Names, separated by commas; all that are installed if empty.")] = "",
    repeats: Annotated[int, typer.Option(help="Runs of each solver.")] = 3,
    seconds_per_solver: Annotated[float, typer.Option(help="About, for all repeats of a solver on a case.")] = 0.3,
    resume: Annotated[bool, typer.Option(help="Keep the cases and patterns that the CSV holds already.")] = False,
) -> None:
    """Run the benchmark."""
    known = [case.name for case in CASES]
    names_of_cases = cases.split(",") if cases else known
    if unknown := [name for name in names_of_cases if name not in known]:
        raise InvalidProblemError(f"no case {unknown[0]!r}; there are: {', '.join(known)}")
    wanted = [case for case in CASES if case.name in names_of_cases]
    if weights is not None:
        wanted.append(weight_case(weights))
    chosen = [Pattern.parse(text) for text in patterns.split(",")] if patterns else list(PATTERNS)
    names = solvers.split(",") if solvers else available_solvers()
    check_output(out, overwrite=True)
    rows = read_rows(out) if resume else []
    done = {(row["case"], int(row["n"]), int(row["m"])) for row in rows}
    # bench/__init__.py asks for one thread, which the user's own setting overrides.
    machine = {"commit": commit(), "threads": os.environ["OMP_NUM_THREADS"]} | environment()
    todo: list[tuple[Case, Pattern]] = [(c, p) for c in wanted for p in chosen if (c.name, p.n, p.m) not in done]
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with progress_bar(*columns) as bar:
        task = bar.add_task("", total=len(todo))
        for case, pattern in todo:
            blocks = case.blocks(pattern, _ENTRIES // pattern.m**2)
            runs = compare(
                blocks,
                pattern,
                [name for name in names if solver_class(name).max_side >= pattern.m],
                case=case.name,
                repeats=repeats,
                seconds_per_solver=seconds_per_solver,
                progress=lambda done, of, text, c=case, p=pattern: bar.update(  # type: ignore[misc]
                    task, description=f"{c.name} {p} {text}"
                ),
            )
            rows += [asdict(run) | machine for run in runs]
            write_csv(out, rows, overwrite=True)
            bar.advance(task)
    print(f"{len(rows)} rows in {out}")


if __name__ == "__main__":
    typer.run(main)

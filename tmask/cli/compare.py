"""`tmask compare`: several solvers on the same blocks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tmask.arrays import Scores, to_scores
from tmask.blocks import Tiling
from tmask.builtin import builtin_weights
from tmask.cli.options import Csv, Exclude, Groups, Include, Json, Overwrite, Regex, parse_groups
from tmask.cli.report import note, percent, reports_errors, show_json, show_table, stderr, write_csv
from tmask.comparison import Run, Summary, summarise
from tmask.comparison import compare as run_comparison
from tmask.environment import environment
from tmask.errors import InvalidProblemError
from tmask.files.atomic import check_output
from tmask.files.layers import select_layers
from tmask.files.weights import open_weights
from tmask.pattern import Pattern
from tmask.registry import available_solvers, solver_class, solver_infos

# Without --solvers: one of each kind that ends in seconds.
_DEFAULT = (
    "augmenting-paths",
    "ortools-flow",
    "networkx-simplex",
    "pulp-highs",
    "greedy-keep",
    "local-search",
    "bi-nm",
)


@reports_errors
def compare(
    file: Annotated[Path | None, typer.Argument(help="Weights; without, those of a small built-in network.")] = None,
    pattern: Annotated[list[str], typer.Option("--pattern", "-p", help="N:M (repeatable).")] = ["2:4", "4:8"],  # noqa: B006
    solvers: Annotated[str, typer.Option("--solvers", help="Names, separated by commas.")] = "",
    all_solvers: Annotated[bool, typer.Option("--all-solvers", help="Every solver that is installed.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each solver runs, in turn.")] = 3,
    seconds_per_solver: Annotated[float, typer.Option(min=0.0, help="About how long a solver may take.")] = 2.0,
    include: Include = [],  # noqa: B006
    exclude: Exclude = [],  # noqa: B006
    regex: Regex = False,
    groups: Groups = [],  # noqa: B006
    overwrite: Overwrite = False,
    json: Json = False,
    csv: Csv = None,
) -> None:
    """Compare solvers on the blocks of a weight file: time, kept share and proven gap.

    Slow solvers see a random part of the blocks; the table says how many each one saw.
    """
    if solvers and all_solvers:
        raise InvalidProblemError("give --solvers or --all-solvers, not both")
    patterns = [Pattern.parse(text) for text in pattern]
    names = [name.strip() for name in solvers.split(",") if name.strip()]
    for name in names:
        solver_class(name)  # a wrong name is found before the work, not after it
    if not names:
        names = [name for name in available_solvers() if all_solvers or name in _DEFAULT]
    if csv is not None:
        check_output(csv, overwrite)
    path = file or builtin_weights()
    weights = open_weights(path)
    selection = select_layers(weights, include, exclude, regex=regex, groups=parse_groups(groups))
    tensors = [
        (to_scores(weights.read(layer.name).values(), name=layer.name), layer.groups) for layer in selection.layers
    ]
    runs: list[Run] = []
    remarks: list[str] = []
    console = stderr()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        for one in patterns:
            blocks, left_out = _gather(tensors, one)
            if left_out:
                remarks.append(f"{one}: {left_out} tiles that are cut short at an edge were left out")
            if not len(blocks):
                raise InvalidProblemError(f"no layer of {path} holds a full {one.m} x {one.m} block")
            usable = [name for name in names if solver_class(name).max_side >= one.m]
            if too_small := sorted(set(names) - set(usable)):
                remarks.append(f"{one}: {', '.join(too_small)} takes smaller blocks only")
            task = bar.add_task(str(one))
            runs += run_comparison(
                blocks, one, usable, case=path.stem, repeats=repeats, seconds_per_solver=seconds_per_solver,
                progress=lambda text, task=task, one=one: bar.update(task, description=f"{one} {text}"),  # type: ignore[misc]
            )  # fmt: skip
            bar.remove_task(task)
    if csv is not None:
        columns_of_machine = environment()
        write_csv(csv, [asdict(run) | columns_of_machine for run in runs])
    if json:
        show_json({"summaries": [asdict(s) for s in summarise(runs)], "environment": environment(), "notes": remarks})
    else:
        _show(summarise(runs), path, len(selection.skipped))
        for remark in remarks:
            note(remark)
        for info in solver_infos():
            if info.missing:
                note(f"not installed: {info.name} ({info.install})")


def _gather(tensors: list[tuple[Scores, int]], pattern: Pattern) -> tuple[Scores, int]:
    """All full blocks (B, m, m) of the layers, and the number of tiles that are cut short."""
    full = [np.empty((0, pattern.m, pattern.m), np.float32)]
    left_out = 0
    for scores, groups in tensors:
        tiling = Tiling(scores.shape, pattern, groups)
        for region, blocks in zip(tiling.regions(), tiling.split(scores), strict=True):
            if region.full:
                full.append(blocks)
            else:
                left_out += len(blocks)
    return np.concatenate(full), left_out


def _show(summaries: list[Summary], path: Path, skipped: int) -> None:
    for pattern in dict.fromkeys((s.n, s.m) for s in summaries):
        rows = [
            {
                "solver": summary.solver,
                "kind": "exact" if solver_class(summary.solver).exact else "heuristic",
                "blocks": f"{summary.blocks:,}",
                "us/block": f"{summary.microseconds:.3g}",
                "fastest - slowest": f"{summary.fastest:.3g} - {summary.slowest:.3g}",
                "weights/s": f"{summary.weights_per_second:.2g}",
                "retained": percent(summary.retained, 3),
                "mean gap": percent(summary.gap_mean, 4),
                "worst gap": percent(summary.gap_worst),
                "optimal": percent(summary.optimal_share, 1),
                "feasible": percent(summary.feasible_share, 1),
                "failures": str(summary.failures) if summary.failures else "",
            }
            for summary in sorted(summaries, key=lambda s: s.microseconds)
            if (summary.n, summary.m) == pattern
        ]
        title = f"{pattern[0]}:{pattern[1]} on {path.name}, gaps proven by duality"
        show_table(title, rows, left=("solver", "kind"))
    for summary in summaries:
        if summary.failure:
            note(f"{summary.solver} {summary.n}:{summary.m} failed: {summary.failure}")
    if skipped:
        note(f"{skipped} tensors have no matrix to mask; `tmask solve` lists them")

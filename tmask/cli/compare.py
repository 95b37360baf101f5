"""`tmask compare`: several solvers on the same blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from tmask.blocks.arrays import Scores, to_scores
from tmask.blocks.layouts import all_in_words
from tmask.blocks.pattern import Pattern
from tmask.cli.console import complain, note, progress_bar
from tmask.cli.exit_codes import Code, reports_errors
from tmask.cli.options import (
    Csv,
    Exclude,
    Groups,
    Include,
    Json,
    Layouts,
    Overwrite,
    Regex,
    SolverNames,
    Verbose,
    check_outputs,
    several,
)
from tmask.cli.output import Row, show_json, show_table
from tmask.cli.selection import left_out, open_selected, reasons
from tmask.comparison.builtin import builtin_weights
from tmask.comparison.environment import environment
from tmask.comparison.gathering import ComparedWeight, gather_blocks
from tmask.comparison.runs import Run, Summary, summarise
from tmask.comparison.runs import compare as run_comparison
from tmask.errors import InvalidProblemError, TmaskError
from tmask.files.csv_files import write_csv
from tmask.files.outputs.names import check_csv_name
from tmask.files.weight_file import WeightFile
from tmask.showing.numbers import amount, number, percent
from tmask.solving.registry import BUILTIN, available_solvers, get_solver, solver_class, solver_infos

_AT_ONCE = 1 << 20  # entries
# Where none is named: one of each kind that ends in seconds.
_DEFAULT = (
    "midpoint",
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
    solver: SolverNames = [],  # noqa: B006
    all_solvers: Annotated[bool, typer.Option("--all-solvers", help="Every solver that is installed.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each solver runs, in turn.")] = 3,
    seconds_per_solver: Annotated[float, typer.Option(min=0.0, help="About how long a solver may take.")] = 2.0,
    include: Include = [],  # noqa: B006
    exclude: Exclude = [],  # noqa: B006
    regex: Regex = False,
    groups: Groups = [],  # noqa: B006
    layouts: Layouts = [],  # noqa: B006
    overwrite: Overwrite = False,
    json: Json = False,
    csv: Csv = None,
    verbose: Verbose = False,
) -> None:
    """Compare solvers on the blocks of a weight file: time, kept share and proven gap.

    Masks are judged on the blocks that all solved, a random part of them where one is slow; times are of as many as
    each had time for. A solver that fails is a row of the table too; the exit code is then 3.
    """
    names, unusable = _names(solver, all_solvers)
    usable = {one: _usable(names, one) for one in map(Pattern.parse, several(pattern))}
    path = file or builtin_weights()
    check_outputs([path], [csv], overwrite)
    check_csv_name(csv)
    weights, selection = open_selected(path, usable, include, exclude, regex, groups, layouts, csv)
    parts = [
        ComparedWeight(layer.shape, layer.groups, layer.layout, partial(_scores, weights, layer.name))
        for layer in selection.layers
    ]
    runs, remarks = _run(parts, path, usable, names, repeats, seconds_per_solver)
    remarks += [*unusable, *left_out(selection, verbose)]
    summaries = summarise(runs)
    # Who names some knows which ones are wanted; the others learn what an install would add.
    missing = {} if solver else {info.name: info.install for info in solver_infos() if info.missing}
    machine = environment()
    read_as = all_in_words(layer.read_as for layer in selection.layers)
    if csv is not None:
        write_csv(csv, [asdict(run) | {"read_as": read_as} | machine for run in runs], overwrite)
    if json:
        rows = [asdict(summary) | {"exact": solver_class(summary.solver).exact} for summary in summaries]
        read = {
            "layers": {layer.name: layer.read_as for layer in selection.layers},
            "skipped": reasons(selection),
        }
        show_json({"summaries": rows, "environment": machine, "notes": remarks, "missing": missing, **read})
    else:
        _show_tables(path, read_as, list(usable), summaries)
        for remark in remarks:
            note(remark)
        for text in _not_installed(missing):
            note(text)
    _exit_if_any_failed(summaries)


def _names(texts: list[str], all_solvers: bool) -> tuple[list[str], list[str]]:
    """The solvers that were asked for, each once, and remarks on those that were not named, and cannot be used.

    A name that was given and cannot be used is an error, here, before the work.
    """
    if not texts:
        return _those_that_load([name for name in available_solvers() if all_solvers or name in _DEFAULT])
    if all_solvers:
        raise InvalidProblemError("give --solver or --all-solvers, not both")
    names = several(texts)
    if not names:
        raise InvalidProblemError(
            f"--solver {','.join(texts)!r} names none; write it as a,b,c (`tmask solvers` lists them)"
        )
    if "auto" in names:
        raise InvalidProblemError("--solver auto: it stands for the fastest exact solver of those that can be named")
    for name in names:
        get_solver(name)
    return names, []


def _those_that_load(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of solvers that can be made with their defaults, and for each other one a remark that says why not."""
    usable, remarks = [], []
    for name in names:
        try:
            get_solver(name)
        except TmaskError as error:
            remarks.append(f"left out: {error}")
        else:
            usable.append(name)
    return usable, remarks


def _usable(names: Sequence[str], pattern: Pattern) -> list[str]:
    """Those that take blocks of this side."""
    usable = [name for name in names if solver_class(name).max_side >= pattern.m]
    if not usable:
        sides = ", ".join(f"{name} up to {solver_class(name).max_side}" for name in names)
        raise InvalidProblemError(f"{pattern}: none of the solvers takes blocks of side {pattern.m} ({sides})")
    return usable


def _scores(weights: WeightFile, name: str) -> Scores:
    """As `to_scores`, written over what was read, part by part: blocks of many layers lie beside it in memory."""
    values = weights.read(name).values()
    flat = values.reshape(-1)
    if not flat.flags.writeable or flat.dtype == np.float16:
        return to_scores(values, name=name)
    try:
        for start in range(0, flat.size, _AT_ONCE):
            flat[start : start + _AT_ONCE] = to_scores(flat[start : start + _AT_ONCE], name=name)
    except InvalidProblemError:
        return to_scores(values, name=name)  # names the place in the whole
    return values


def _run(
    parts: Sequence[ComparedWeight],
    path: Path,
    usable: Mapping[Pattern, Sequence[str]],
    names: Sequence[str],
    repeats: int,
    seconds_per_solver: float,
) -> tuple[list[Run], list[str]]:
    """Every pattern's solvers on its blocks, and remarks on blocks and solvers that are not among them."""
    runs: list[Run] = []
    remarks: list[str] = []
    text = TextColumn("{task.description}", markup=False)
    with progress_bar(SpinnerColumn(), text, TimeElapsedColumn()) as bar:
        for pattern, chosen in usable.items():
            blocks, about = gather_blocks(parts, pattern, shuffled=True)
            if not len(blocks):
                side = f"{pattern.m} x {pattern.m}"
                raise InvalidProblemError(f"no layer of {path} holds a full {side} block, as {pattern} needs")
            remarks += about
            if too_small := [name for name in names if name not in chosen]:
                listed = ", ".join(too_small)
                remarks.append(f"{pattern}: left out, since they take smaller blocks only: {listed}")
            task = bar.add_task(str(pattern))
            runs += run_comparison(
                blocks, pattern, chosen, case=path.stem, repeats=repeats, seconds_per_solver=seconds_per_solver,
                same_blocks=True, shuffled=True,
                progress=lambda done, of_all, text, task=task, of=pattern: bar.update(task, description=f"{of} {text}"),  # type: ignore[misc]
            )  # fmt: skip
            bar.remove_task(task)
    return runs, remarks


def _show_tables(path: Path, read_as: str, patterns: Sequence[Pattern], summaries: Sequence[Summary]) -> None:
    for pattern in patterns:
        own = [summary for summary in summaries if (summary.n, summary.m) == (pattern.n, pattern.m)]
        judged = max((one.judged for one in own if one.failures < one.repeats), default=0)
        title = (
            f"{pattern} on {path.name} (read as {read_as}): masks judged on the same {judged:,} blocks, gaps proven by "
            "duality"
        )
        show_table(title, _rows(own), texts=("solver", "kind"))


def _rows(summaries: Sequence[Summary]) -> list[Row]:
    """In words, the fastest first, those that failed last."""
    ordered = sorted(summaries, key=lambda s: (math.isnan(s.microseconds), s.microseconds))
    # Columns of zeros would push others off the screen.
    rare = {"at a limit": [one.limits for one in ordered], "failures": [one.failures for one in ordered]}
    shown = {name: counts for name, counts in rare.items() if any(counts)}
    return [
        _words(one) | {name: str(counts[place]) for name, counts in shown.items()} for place, one in enumerate(ordered)
    ]


def _words(summary: Summary) -> dict[str, str]:
    ran = summary.failures < summary.repeats
    return {
        "solver": summary.solver,
        "kind": "exact" if solver_class(summary.solver).exact else "heuristic",
        "us/block": number(summary.microseconds),
        "retained": percent(summary.retained if ran else None),
        "of optimum": percent(summary.of_optimum if ran else None),
        "mean gap": percent(summary.gap_mean, 4),
        "worst gap": percent(summary.gap_worst),
        "optimal": percent(summary.optimal_share if ran else None, 1),
        "underfilled": percent(1 - summary.feasible_share if ran else None, 1),
        "timed blocks": f"{summary.blocks:,}",
        "spread": f"{number(summary.fastest)} - {number(summary.slowest)}" if ran else "-",
        "weights/s": amount(summary.weights_per_second),
    }


def _not_installed(missing: Mapping[str, str]) -> list[str]:
    """What an install would add, in one line, and another for solvers that need a GPU."""
    texts = [f"not installed: what solver {name} needs" for name in missing if name not in BUILTIN]
    for gpu, where in ((False, ""), (True, ", on a machine with an NVIDIA GPU")):
        names = [name for name in missing if name in BUILTIN and BUILTIN[name].gpu == gpu]
        extras = ",".join(dict.fromkeys(BUILTIN[name].extra for name in names))
        texts += [f'not installed: {", ".join(names)}; run: pip install "tmask[{extras}]"{where}'] if names else []
    return texts


def _exit_if_any_failed(summaries: Sequence[Summary]) -> None:
    failed = [summary for summary in summaries if summary.failures]
    for summary in failed:
        complain(
            f"{summary.solver} on {summary.n}:{summary.m} failed in {summary.failures} of {summary.repeats} runs: "
            f"{summary.failure}"
        )
    if failed:
        raise typer.Exit(Code.SOLVER)

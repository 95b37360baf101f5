"""`tmask.compare`: several solvers on the blocks of one's own weights, and what came out, to look at or to write."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tmask.blocks.arrays import Scores, to_scores
from tmask.blocks.layouts import all_in_words, in_words, read_layout
from tmask.blocks.pattern import Pattern
from tmask.comparison.environment import environment
from tmask.comparison.gathering import ComparedWeight, gather_blocks
from tmask.comparison.runs import Run, Summary, summarise
from tmask.comparison.runs import compare as run_comparison
from tmask.errors import InvalidProblemError
from tmask.files.csv_files import write_csv
from tmask.plots.comparison import draw_runs
from tmask.showing.cards import Card, Shown
from tmask.showing.numbers import number, percent
from tmask.showing.progress import Progress, reporting
from tmask.solving.registry import available_solvers, solver_class
from tmask.solving.solver import Solver

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Where none are named: one of each kind that ends in seconds, those of them that are installed.
_DEFAULT = ("midpoint", "patterns", "ortools-flow", "greedy-keep", "local-search", "bi-nm")


@dataclass(frozen=True, slots=True, repr=False)
class Comparison(Shown):
    """Solvers compared on the same blocks.

    Args:
        runs: each solver on each pattern, as often as it was repeated; those that failed are among them.
        notes: what was left out, in words.
        read_as: what the axes of the weights were taken for, in words.
    """

    runs: tuple[Run, ...]
    notes: tuple[str, ...] = ()
    read_as: str = ""

    @property
    def summaries(self) -> list[Summary]:
        """The repeats of each solver on each pattern in one line, the fastest first, those that failed last."""
        lines = summarise(self.runs)
        return sorted(lines, key=lambda s: (s.m, s.n, math.isnan(s.microseconds), s.microseconds))

    def __repr__(self) -> str:
        solvers = {run.solver for run in self.runs}
        patterns = {(run.n, run.m) for run in self.runs}
        return f"<Comparison of {len(solvers)} solvers on {len(patterns)} patterns; print() it for a table>"

    def __str__(self) -> str:
        return self.card().text()

    def card(self) -> Card:
        """What a notebook shows: a row for each solver and pattern."""
        rows = [_words(summary) for summary in self.summaries]
        read_as = f" (weights read as {self.read_as})" if self.read_as else ""
        judged = ", ".join(f"{n}:{m} {count:,}" for (n, m), count in self._judged().items())
        title = f"Solvers compared on the same blocks{read_as}, gaps proven by duality"
        return Card(title, {"blocks that all solved, and that are judged": judged}, rows, (), self.notes)

    def _judged(self) -> dict[tuple[int, int], int]:
        return {(run.n, run.m): run.judged for run in self.runs if not run.failure}

    def plot(self) -> Figure:
        """Gap against time, a panel for each pattern, as a figure of matplotlib.

        Raises:
            SolverUnavailableError: matplotlib is not installed.
        """
        return draw_runs(self.runs, environment())

    def write_csv(self, path: str | Path, overwrite: bool = False) -> None:
        """A row for each run, as `tmask compare --csv` writes them and `tmask plot` reads them.

        Raises:
            OutputError: it cannot be written, or exists already.
        """
        machine = environment()
        write_csv(Path(path), [asdict(run) | {"read_as": self.read_as} | machine for run in self.runs], overwrite)


def compare(
    weights: Any,
    patterns: Pattern | str | Iterable[Pattern | str] = ("2:4", "4:8"),
    solvers: Iterable[str | Solver] | None = None,
    *,
    groups: Mapping[str, int] | int = 1,
    layout: str | None = None,
    repeats: int = 3,
    seconds_per_solver: float = 1.0,
    seed: int = 0,
    progress: Progress = False,
) -> Comparison:
    """Solve the blocks of one's own weights by several solvers, in turn, and judge them by the same proven bounds.

    Args:
        weights: an array or tensor as `solve` takes it, or several by name.
        patterns: one or several.
        solvers: names, or Solver objects where settings matter; by default a few of each kind that are installed.
        groups: of grouped convolutions, by name where there are several weights.
        layout: of all weights, as in `solve`.
        repeats: times that each solver runs.
        seconds_per_solver: about how long the repeats of one solver may take; slow ones see fewer blocks.
        seed: of the order in which blocks are taken.
        progress: True for a bar; or a function of what is done, of how many, and what comes next.
    Raises:
        InvalidProblemError: no full block in the weights, or nothing to compare.
        UnknownSolverError, SolverUnavailableError: a solver that cannot be used here.
    """
    named = dict(weights) if isinstance(weights, Mapping) else {"weight": weights}
    per_layer = groups if isinstance(groups, Mapping) else dict.fromkeys(named, groups)
    if unknown := sorted(set(per_layer) - set(named)):
        raise InvalidProblemError(f"groups are given for {', '.join(unknown)}, which are not among the weights")
    tensors = [(to_scores(weight, name=name), per_layer.get(name, 1), layout) for name, weight in named.items()]
    parts = [ComparedWeight(scores.shape, count, layout, partial(_given, scores)) for scores, count, _ in tensors]
    chosen = [name for name in _DEFAULT if name in available_solvers()] if solvers is None else list(solvers)
    several = [patterns] if isinstance(patterns, Pattern | str) else list(patterns)
    runs: list[Run] = []
    notes: list[str] = []
    with reporting(progress, "comparing") as tell:
        for pattern in map(Pattern.parse, several):
            blocks, about = gather_blocks(parts, pattern, seed, shuffled=True)
            if not len(blocks):
                side = f"{pattern.m} x {pattern.m}"
                raise InvalidProblemError(f"no weight holds a full {side} block, as {pattern} needs")
            notes += about
            fitting = [solver for solver in chosen if _class(solver).max_side >= pattern.m]
            if too_small := ", ".join(_class(solver).name for solver in chosen if solver not in fitting):
                if not fitting:
                    raise InvalidProblemError(
                        f"{pattern}: none of the solvers takes blocks of side {pattern.m} ({too_small})"
                    )
                notes.append(f"{pattern}: left out, since they take smaller blocks only: {too_small}")
            runs += run_comparison(
                blocks, pattern, fitting, case="weights", repeats=repeats, seconds_per_solver=seconds_per_solver,
                same_blocks=True, shuffled=True, progress=tell,
            )  # fmt: skip
    read_as = all_in_words(in_words(scores.shape, read_layout(scores.shape, layout), g) for scores, g, _ in tensors)
    return Comparison(tuple(runs), tuple(notes), read_as)


def _given(scores: Scores) -> Scores:
    return scores


def _class(solver: str | Solver) -> type[Solver]:
    return solver_class(solver) if isinstance(solver, str) else type(solver)


def _words(summary: Summary) -> dict[str, str]:
    ran = summary.failures < summary.repeats
    return {
        "pattern": f"{summary.n}:{summary.m}",
        "solver": summary.solver,
        "kind": "exact" if solver_class(summary.solver).exact else "heuristic",
        "us a block": number(summary.microseconds),
        "of optimum": percent(summary.of_optimum if ran else None),
        "mean gap": percent(summary.gap_mean, 4),
        "worst gap": percent(summary.gap_worst),
        "proven optimal": percent(summary.optimal_share if ran else None, 1),
        "underfilled": percent(1 - summary.feasible_share if ran else None, 1),
        "timed blocks": f"{summary.blocks:,}",
    }

"""Run several solvers on the same blocks, in turn, repeated; and what came out of it.

Slow solvers see fewer blocks: every solver gets the first blocks of one random order, as many as fit its share of
time. Gaps are proven ones, against one bound a block that all solvers share.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from tmask.blocks.arrays import Masks, Scores
from tmask.blocks.pattern import Pattern
from tmask.comparison.gathering import shuffled_order
from tmask.errors import InvalidProblemError, TmaskError
from tmask.judging.certificate import Bounds, judge, upper_bounds
from tmask.judging.worth import Worth, optimality_gaps
from tmask.showing.progress import ProgressCall
from tmask.solving.registry import get_solver, reference_solver
from tmask.solving.settings import settings_text
from tmask.solving.solver import Solver

_PROBE_BLOCKS = 2


@dataclass(frozen=True, slots=True)
class Run:
    """One solver on one set of blocks, once. A failed run has a `failure` text and no numbers (NaN, 0).

    Args:
        case: name of the blocks' origin.
        settings: of the solver, as "name=value" pairs joined by blanks.
        blocks: how many it saw.
        seconds: wall-clock time of the solver alone.
        objective, dual_bound, total: float64 sums over the judged blocks: kept scores, proven bounds, all scores.
        gap_mean, gap_worst: over the judged blocks, of their optimality gaps; below 0 only for underfilled blocks.
        optimal_blocks: blocks proven optimal, exactly n per line.
        feasible_blocks: blocks with exactly n per row and column.
        judged: the first so many of its blocks were judged; 0 in older files, and where it failed: all of them.
    """

    case: str
    n: int
    m: int
    solver: str
    settings: str
    repeat: int
    blocks: int
    seconds: float = float("nan")
    objective: float = float("nan")
    dual_bound: float = float("nan")
    total: float = float("nan")
    gap_mean: float = float("nan")
    gap_worst: float = float("nan")
    optimal_blocks: int = 0
    feasible_blocks: int = 0
    limit_reached: bool = False
    failure: str = ""
    judged: int = 0

    @property
    def worth(self) -> Worth:
        """Of its masks, on the blocks that were judged."""
        return Worth(self.objective, self.total, self.dual_bound)


@dataclass(frozen=True, slots=True)
class Summary:
    """The repeats of one solver on one case, in one line.

    Args:
        microseconds: a block, median over the repeats; fastest and slowest repeat beside it.
        weights_per_second: from the median.
        blocks: how many it saw, of which the first `judged` count for all that is said of its masks.
        retained: kept share of the total score.
        of_optimum: what it keeps, as a share of the proven bounds on what can be kept.
        limits: repeats that a limit of the solver stopped, so that the mask may not be its best.
        failures: repeats that failed; `failure` is the first text.
    """

    case: str
    n: int
    m: int
    solver: str
    settings: str
    blocks: int
    repeats: int
    microseconds: float
    fastest: float
    slowest: float
    weights_per_second: float
    retained: float
    gap_mean: float
    gap_worst: float
    optimal_share: float
    feasible_share: float
    limits: int
    failures: int
    failure: str
    judged: int
    of_optimum: float


def compare(
    blocks: Scores,
    pattern: Pattern | str,
    solvers: Iterable[str | Solver],
    *,
    case: str = "blocks",
    repeats: int = 3,
    seconds_per_solver: float = 2.0,
    seed: int = 0,
    same_blocks: bool = False,
    shuffled: bool = False,
    progress: ProgressCall | None = None,
) -> list[Run]:
    """Solve the same blocks by every solver, in turn, `repeats` times.

    Args:
        blocks: (B, m, m) scores, >= 0 and finite.
        pattern: whose m is the blocks' side.
        solvers: names, or Solver objects where settings matter.
        seconds_per_solver: about how long the repeats of one solver may take in all; it decides how many blocks a
            slow solver sees. One block at least.
        same_blocks: judge all masks on the blocks that every solver saw, so that they can be held against each other;
            else each on all that it saw, which says more of the fast ones.
        shuffled: the blocks come in random order already; else they are copied in one.
        progress: called before each run with the number of steps done, how many there are, and what comes next.
    Returns:
        One Run per solver and repeat; solvers that failed are in it.
    Raises:
        InvalidProblemError: no blocks, blocks of another side, repeats below 1.
        UnknownSolverError, SolverUnavailableError: for a name that cannot be used here.
    """
    pattern = Pattern.parse(pattern)
    if blocks.ndim != 3 or blocks.shape[1:] != (pattern.m, pattern.m) or not len(blocks):
        raise InvalidProblemError(f"compare needs blocks (B, {pattern.m}, {pattern.m}), got {blocks.shape}")
    if repeats < 1:
        raise InvalidProblemError(f"repeats must be at least 1, got {repeats}")
    instances = [get_solver(solver) if isinstance(solver, str) else solver for solver in solvers]
    if not instances:
        raise InvalidProblemError("compare needs at least one solver")
    if not shuffled:
        blocks = blocks[shuffled_order(len(blocks), seed)]
    trials = [_Trial(solver, blocks, pattern, case) for solver in instances]
    steps = _Steps(progress, len(trials) * (1 + repeats) + 1)
    for trial in trials:
        steps.next(f"{trial.solver.name}: warming up")
        trial.plan(seconds_per_solver / repeats)
    # One bound a block for all solvers, found outside the time that is measured.
    reference = reference_solver(pattern.m)
    seen = max(trial.size for trial in trials)
    steps.next(f"bounds for {seen} blocks")
    bounds = upper_bounds(blocks[:seen], pattern.n, None if reference is None else reference.solve)
    shared = min((trial.size for trial in trials if trial.runs), default=1)
    runs = []
    for repeat in range(repeats):  # in turn, so that a slow moment of the machine hits all of them
        for trial in trials:
            steps.next(f"{trial.solver.name}: run {repeat + 1} of {repeats}")
            runs.append(trial.run(repeat, bounds, shared if same_blocks else trial.size))
    steps.next("")
    return runs


class _Steps:
    """Counts the steps of a comparison for whoever wants to know."""

    def __init__(self, progress: ProgressCall | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def next(self, name: str) -> None:
        """Say what comes next; what was said before is done."""
        if self.progress is not None:
            self.progress(self.done, self.total, name)
        self.done += 1


class _Trial:
    """One solver's part in a comparison."""

    def __init__(self, solver: Solver, blocks: Scores, pattern: Pattern, case: str) -> None:
        self.solver = solver
        self.blocks = blocks
        self.pattern = pattern
        self.size = 1
        self.runs = False  # until it is known that it does
        self.row = Run(case, pattern.n, pattern.m, solver.name, settings_text(solver), 0, 0)
        self._judged: tuple[Masks, Run] | None = None

    def plan(self, seconds: float) -> None:
        """Warm up (imports, compilation), then choose how many blocks take about this many seconds."""
        try:
            # Not timed: it pays for imports and compilation, once.
            self.solver.solve(self.blocks[:_PROBE_BLOCKS], self.pattern.n)
            size = min(_PROBE_BLOCKS, len(self.blocks))
            while True:
                # A clock need not have ticked, and what is divided by must not be 0.
                taken = max(self.solver.solve(self.blocks[:size], self.pattern.n).seconds, 1e-9)
                # A quarter of the time is enough to go on from; on few blocks the cost of the call hides theirs.
                if size == len(self.blocks) or taken > seconds / 4:
                    break
                # Step by step, since a time so short says little of many blocks.
                size = min(int(size * min(16, 1 + seconds / taken)), len(self.blocks))
        except TmaskError:
            return  # the run meets it again, and reports it
        self.runs = True
        self.size = int(min(len(self.blocks), max(1, size * seconds / taken)))

    def run(self, repeat: int, bounds: Bounds, judged: int) -> Run:
        """One repeat on all of its blocks, of which the first `judged` are judged."""
        scores = self.blocks[: self.size]
        row = replace(self.row, repeat=repeat, blocks=len(scores))
        try:
            answer = self.solver.solve(scores, self.pattern.n)
        except TmaskError as error:
            # A row of its own, and not the end of a comparison in which other solvers have runs already.
            return replace(row, failure=f"{type(error).__name__}: {error}")
        found = self._judge(scores[:judged], answer.masks[:judged], bounds, row)
        return replace(found, repeat=repeat, seconds=answer.seconds, limit_reached=answer.limit_reached)

    def _judge(self, scores: Scores, masks: Masks, bounds: Bounds, row: Run) -> Run:
        """The row with what the masks are worth; computed once while the masks stay the same."""
        if self._judged is not None and np.array_equal(self._judged[0], masks):
            return self._judged[1]
        size = len(scores)
        known = Bounds(bounds.value[:size], bounds.prices[:size], bounds.tight[:size])
        judgement = judge(scores, masks, self.pattern.n, bounds=known)
        gaps = optimality_gaps(judgement.objective, judgement.bound)
        row = replace(
            row,
            objective=float(judgement.objective.sum()),
            dual_bound=float(judgement.bound.sum()),
            total=float(scores.sum(dtype=np.float64)),
            gap_mean=float(gaps.mean()),
            gap_worst=float(gaps.max()),
            optimal_blocks=int((judgement.proven & judgement.regular).sum()),
            feasible_blocks=int(judgement.regular.sum()),
            judged=size,
        )
        self._judged = masks, row
        return row


def summarise(runs: Sequence[Run]) -> list[Summary]:
    """One line per case, pattern, solver and settings, in the order of first appearance."""
    grouped: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        grouped.setdefault((run.case, run.n, run.m, run.solver, run.settings), []).append(run)
    return [_summary(group) for group in grouped.values()]


def _summary(runs: list[Run]) -> Summary:
    good = [run for run in runs if not run.failure]
    failures = [run.failure for run in runs if run.failure]
    first = good[0] if good else runs[0]
    # A block, since solvers saw different numbers of them.
    times = [1e6 * run.seconds / run.blocks for run in good] or [float("nan")]
    # A median, since a busy machine makes single runs slow, and none fast.
    median = statistics.median(times)
    judged = first.judged or first.blocks
    return Summary(
        case=first.case,
        n=first.n,
        m=first.m,
        solver=first.solver,
        settings=first.settings,
        blocks=first.blocks,
        repeats=len(runs),
        microseconds=median,
        fastest=min(times),
        slowest=max(times),
        weights_per_second=first.m**2 / median * 1e6 if median else float("nan"),
        retained=first.worth.retained,
        gap_mean=first.gap_mean,
        gap_worst=first.gap_worst,
        optimal_share=first.optimal_blocks / judged,
        feasible_share=first.feasible_blocks / judged,
        limits=sum(run.limit_reached for run in good),
        failures=len(failures),
        failure=failures[0] if failures else "",
        judged=judged,
        of_optimum=first.objective / first.dual_bound if first.dual_bound else 1.0,
    )


COLUMNS = tuple(field.name for field in fields(Run))

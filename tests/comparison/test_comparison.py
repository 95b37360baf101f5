import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

import tmask
from tests.strategies import make_blocks
from tmask import Answer, Solver
from tmask.comparison.runs import compare, summarise


@dataclass(frozen=True)
class Broken(Solver):
    """Fails on purpose."""

    name: ClassVar[str] = "broken"
    exact: ClassVar[bool] = False

    def _solve(self, scores, n):
        raise tmask.SolverFailedError("status 7")


@dataclass(frozen=True)
class Sleepy(Solver):
    """Takes its time over each block."""

    log: tuple = ()
    name: ClassVar[str] = "sleepy"
    exact: ClassVar[bool] = False
    sizes: ClassVar[list[int]] = []

    def _solve(self, scores, n):
        import time

        self.sizes.append(len(scores))
        time.sleep(0.004 * len(scores))
        i = np.arange(scores.shape[1])
        return Answer(np.broadcast_to((i[None] - i[:, None]) % len(i) < n, scores.shape).copy())


def test_solvers_see_the_same_blocks_in_turn():
    blocks = make_blocks("normal", 64, 4)
    runs = compare(blocks, "2:4", ["patterns", "bi-nm"], repeats=3, seconds_per_solver=1)
    assert [run.solver for run in runs] == ["patterns", "bi-nm"] * 3
    assert [run.repeat for run in runs] == [0, 0, 1, 1, 2, 2]
    exact, heuristic = runs[0], runs[1]
    assert exact.blocks == heuristic.blocks == 64
    assert exact.total == heuristic.total == pytest.approx(blocks.sum(dtype=float))
    assert exact.dual_bound == heuristic.dual_bound == exact.objective
    assert exact.gap_mean == exact.gap_worst == 0
    assert exact.optimal_blocks == exact.feasible_blocks == 64
    assert 0 < heuristic.gap_mean < heuristic.gap_worst < 1
    assert heuristic.optimal_blocks <= heuristic.feasible_blocks < 64


def test_slow_solvers_see_fewer_blocks_and_the_row_says_how_many():
    runs = compare(make_blocks("normal", 512, 4), "2:4", ["patterns", Sleepy()], repeats=2, seconds_per_solver=0.1)
    fast, slow = runs[:2]
    assert fast.blocks == 512
    assert 1 <= slow.blocks < 50


def test_a_failure_is_a_row():
    runs = compare(make_blocks("normal", 8, 4), "2:4", ["bi-nm", Broken()], repeats=2, seconds_per_solver=0.1)
    summary = summarise(runs)[1]
    assert summary.failures == 2
    assert summary.failure == "SolverFailedError: status 7"
    assert math.isnan(summary.microseconds)


def test_a_summary_is_the_median_with_its_spread():
    runs = compare(make_blocks("normal", 64, 4), "2:4", ["patterns"], repeats=5, seconds_per_solver=1)
    (summary,) = summarise(runs)
    micro = sorted(1e6 * run.seconds / run.blocks for run in runs)
    assert (summary.fastest, summary.microseconds, summary.slowest) == (micro[0], micro[2], micro[4])
    assert summary.weights_per_second == pytest.approx(16e6 / micro[2])


@pytest.mark.parametrize(
    ("blocks", "arguments", "says"),
    [
        (np.ones((0, 4, 4)), {}, "needs blocks"),
        (np.ones((2, 8, 8)), {}, r"needs blocks \(B, 4, 4\)"),
        (np.ones((2, 4, 4)), {"repeats": 0}, "repeats must be at least 1"),
        (np.ones((2, 4, 4)), {"solvers": []}, "at least one solver"),
    ],
)
def test_bad_requests(blocks, arguments, says):
    with pytest.raises(tmask.InvalidProblemError, match=says):
        compare(blocks, "2:4", **({"solvers": ["bi-nm"]} | arguments))

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

import tmask
from tmask import Answer, Solver, Status

WEIGHT = np.random.default_rng(0).standard_normal((8, 12)).astype(np.float32)


@dataclass(frozen=True)
class Fixed(Solver):
    """Answers with what it was given."""

    answer: Answer | None = None
    name: ClassVar[str] = "fixed"
    exact: ClassVar[bool] = False

    def _solve(self, scores, n):
        return self.answer


@dataclass(frozen=True)
class ClaimsToBeExact(Fixed):
    """The same, with a claim."""

    exact: ClassVar[bool] = True


def diagonal(count=1, side=4, keep=2):
    block = sum(np.roll(np.eye(side, dtype=int), k, 1) for k in range(keep)).astype(bool)
    return np.tile(block, (count, 1, 1))


def test_a_solution_says_what_it_is():
    solution = tmask.solve(WEIGHT, "2:4")
    assert solution.status is Status.OPTIMAL
    assert solution.optimality_gap == 0
    assert 0 < solution.retained < 1
    assert solution.pattern == tmask.Pattern(2, 4)
    assert "2:4" in repr(solution)
    assert "optimal" in repr(solution)
    assert len(repr(solution)) < 200
    assert "proven" in solution.status.advice


def test_without_a_certificate_nothing_is_claimed():
    solution = tmask.solve(WEIGHT, "2:4", certify=False)
    assert solution.dual_bound is None
    assert solution.optimality_gap is None
    assert solution.status is Status.FEASIBLE
    assert "not certified" in repr(solution)


def test_a_score_replaces_the_magnitude():
    score = np.random.default_rng(1).random(WEIGHT.shape).astype(np.float32)
    by_score = tmask.solve(WEIGHT, "2:4", score=score)
    assert by_score.objective == tmask.solve(score, "2:4").objective
    assert by_score.objective == pytest.approx(score[by_score.mask].sum(dtype=float))


def test_zero_weights_have_gap_zero():
    solution = tmask.solve(np.zeros((4, 4), np.float32), "2:4")
    assert solution.optimality_gap == 0
    assert solution.retained == 1
    assert solution.status is Status.OPTIMAL


def test_an_underfilled_mask_is_not_passed_off_as_full():
    masks = diagonal()
    masks[0, 0] = False
    solution = tmask.solve(WEIGHT[:4, :4], "2:4", Fixed(Answer(masks)))
    assert solution.status is Status.UNDERFILLED
    assert "fewer than n" in solution.status.advice
    with pytest.raises(tmask.InvalidMaskError):
        tmask.check_mask(solution.mask, "2:4")


def test_a_limit_is_a_status():
    masks = diagonal()
    weight = np.where(masks[0], np.float32(0), np.float32(1))
    assert tmask.solve(weight, "2:4", Fixed(Answer(masks, limit_reached=True))).status is Status.LIMIT
    assert tmask.solve(1 - weight, "2:4", Fixed(Answer(masks, limit_reached=True))).status is Status.OPTIMAL


def test_wrong_prices_prove_nothing():
    masks = diagonal()
    weight = np.where(masks[0], np.float32(0), np.float32(1))
    solution = tmask.solve(weight, "2:4", Fixed(Answer(masks, prices=np.zeros((1, 4)))))
    assert solution.status is Status.FEASIBLE
    assert solution.optimality_gap == 1


@pytest.mark.parametrize(
    ("solver", "masks", "says"),
    [
        (Fixed, np.ones((1, 4, 4), bool), "row 0 keeps 4, not 2"),
        (Fixed, np.eye(4)[None], "returned float64"),
        (Fixed, np.ones((4, 4), bool), "expected bool"),
        (ClaimsToBeExact, diagonal(keep=1), "row 0 keeps 1, not 2"),
    ],
)
def test_what_is_no_mask_is_refused(solver, masks, says):
    with pytest.raises(tmask.SolverFailedError, match=says):
        tmask.solve(WEIGHT[:4, :4], "2:4", solver(Answer(masks)))


def test_settings_that_would_be_ignored_are_errors():
    with pytest.raises(tmask.InvalidProblemError, match="would be ignored"):
        tmask.solve(WEIGHT, "2:4", Fixed(), samples=3)
    with pytest.raises(tmask.InvalidProblemError, match="name it instead of 'auto'"):
        tmask.solve(WEIGHT, "2:4", samples=3)
    with pytest.raises(tmask.InvalidProblemError, match="its settings are samples, seed"):
        tmask.solve(WEIGHT, "2:4", "random-best", sample=3)


def test_a_solver_that_takes_smaller_blocks_says_so():
    with pytest.raises(tmask.InvalidProblemError, match="takes blocks up to 4 x 4, not 8 x 8"):
        tmask.solve(WEIGHT, "4:8", "patterns")


def test_progress_counts_every_block():
    counts = []
    tmask.solve(np.ones((9, 9), np.float32), "2:4", progress=lambda *told: counts.append(told))
    assert counts[-1] == (9, 9, "")


def test_chunks_do_not_change_the_answer(monkeypatch):
    whole = tmask.solve(WEIGHT, "2:4", "patterns").mask
    monkeypatch.setattr("tmask_solvers.patterns.Patterns.chunk", 1)
    np.testing.assert_array_equal(tmask.solve(WEIGHT, "2:4", "patterns").mask, whole)

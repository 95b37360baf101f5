"""Solvers of other packages: what they write into, raise and return harms nobody, and is told to their author."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

import tmask
from tmask import Answer, Solver
from tmask.comparison.runs import compare
from tmask.solving.matrices import MatrixSolver

WEIGHT = np.random.default_rng(0).standard_normal((12, 16)).astype(np.float32)


def band(shape: tuple[int, ...], n: int) -> np.ndarray:
    i = np.arange(shape[-1])
    return np.broadcast_to((i - i[:, None]) % len(i) < n, shape).copy()


@dataclass(frozen=True)
class Writing(Solver):
    """Makes its mask the best one, by changing the scores."""

    by_force: bool = True
    name: ClassVar[str] = "writing"
    exact: ClassVar[bool] = True

    def _solve(self, scores, n):
        if self.by_force:
            scores.flags.writeable = True
        scores[...] = band(scores.shape, n)
        return Answer(band(scores.shape, n))


@dataclass(frozen=True)
class WritingInPlace(MatrixSolver):
    """The same, in a matrix."""

    name: ClassVar[str] = "writing-in-place"

    def _solve(self, scores, n):
        return Writing()._solve(scores, n)

    def _worker(self, n, m, dtype):
        def solve(weight, mask, start):
            rows, cols = np.indices(weight.shape)
            mask[...] = weight[...] = (cols - rows) % m < n
            return 0.0

        return solve


@pytest.mark.parametrize("shape", [(8, 8), (4, 4), (10, 7)])
@pytest.mark.parametrize("solver", [Writing(), WritingInPlace()])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_a_solver_writes_into_its_scores_is_not_what_is_judged(solver, shape):
    weight = np.ascontiguousarray(WEIGHT[: shape[0], : shape[1]])
    before = weight.copy()
    solution = tmask.solve(weight, "2:4", solver)
    np.testing.assert_array_equal(weight, before)
    assert solution.total == pytest.approx(np.abs(before).sum(dtype=float))
    assert solution.objective == pytest.approx(np.abs(before)[solution.mask].sum(dtype=float))
    if isinstance(solver, Writing):
        assert solution.optimality_gap == pytest.approx(1 - solution.objective / tmask.solve(before, "2:4").objective)
        assert solution.status is not tmask.Status.OPTIMAL


def test_scores_that_a_solver_may_not_write_into_are_read_only():
    with pytest.raises(tmask.SolverFailedError, match=r"'writing', blocks 0-11: ValueError: .*read-only") as failed:
        tmask.solve(WEIGHT, "2:4", Writing(by_force=False))
    assert f"for the author of {__name__} to mend" in str(failed.value)


def test_a_solver_that_writes_does_not_spoil_the_rows_of_others():
    blocks = np.abs(np.random.default_rng(1).standard_normal((6, 4, 4)))
    before = blocks.copy()
    alone = compare(blocks, "2:4", ["bi-nm"], repeats=1)[0]
    writing, beside = compare(blocks, "2:4", [Writing(), "bi-nm"], repeats=1)
    np.testing.assert_array_equal(blocks, before)
    assert (beside.objective, beside.total, beside.gap_mean) == (alone.objective, alone.total, alone.gap_mean)
    assert writing.gap_worst > 0
    assert writing.total == alone.total


def test_a_tensor_that_a_solver_writes_into_is_not_what_is_judged():
    torch = pytest.importorskip("torch")
    from tests.solving.test_tensors import on_device
    from tmask.solving.tensor_solver import TensorAnswer, TensorProof, TensorSolver

    @dataclass(frozen=True)
    class WritingTensors(TensorSolver):
        name: ClassVar[str] = "writing-tensors"
        exact: ClassVar[bool] = True

        def solve_tensor(self, scores, n):
            mask = torch.from_numpy(band(tuple(scores.shape), n))
            scores.copy_(mask)
            return TensorAnswer(mask)

    class WritingMatrices(WritingTensors):
        def solve_matrices(self, weights, n, m, masks):
            rows, cols = torch.from_numpy(np.indices(tuple(weights.shape)[2:]))
            masks.copy_((cols - rows) % m < n)
            weights.copy_(masks)
            return TensorProof()

    weight = torch.from_numpy(WEIGHT.copy())
    for solver in (WritingTensors(), WritingMatrices()):
        for solve in (tmask.solve, on_device):
            solution = solve(weight, tmask.Pattern(2, 4), solver)
            np.testing.assert_array_equal(weight.numpy(), WEIGHT)
            assert solution.objective == pytest.approx(np.abs(WEIGHT)[solution.mask.numpy()].sum(dtype=float))
            assert solution.optimality_gap > 0


def returning(value):
    """A solver that answers with this, or raises it."""

    @dataclass(frozen=True)
    class Returning(Solver):
        name: ClassVar[str] = "returning"
        exact: ClassVar[bool] = False

        def _solve(self, scores, n):
            if isinstance(value, BaseException):
                raise value
            return value(band(scores.shape, n)) if callable(value) else value

    return Returning()


BAD_ANSWERS = {
    "raises": (ZeroDivisionError("division by zero"), r"ZeroDivisionError: division by zero \(.*, line \d+\)"),
    "exits": (SystemExit(7), "SystemExit: 7"),
    "none": (None, r"_solve returned None, expected tmask.Answer\(masks\)"),
    "array": (lambda masks: masks, r"_solve returned bool \(12, 4, 4\), expected tmask.Answer\(masks\)"),
    "list": (lambda masks: Answer(masks.tolist()), "returned a list as masks"),
    "no masks": (Answer(None), "returned None as masks, expected bool"),
    "masked": (lambda masks: Answer(np.ma.array(masks, mask=masks)), "returned a MaskedArray as masks"),
    "prices": (lambda masks: Answer(masks, prices=np.zeros(4)), r"returned float64 \(4,\) as prices"),
    "price list": (lambda masks: Answer(masks, prices=[0.0] * 4), "returned a list as prices"),
}


@pytest.mark.parametrize("case", sorted(BAD_ANSWERS))
def test_what_goes_wrong_in_a_solver_is_told_to_its_author(case):
    value, says = BAD_ANSWERS[case]
    with pytest.raises(tmask.SolverFailedError, match=rf"^solver 'returning', blocks 0-11: .*{says}") as failed:
        tmask.solve(WEIGHT, "2:4", returning(value))
    assert str(failed.value).endswith(f"for the author of {__name__} to mend")


@pytest.mark.parametrize("case", sorted(BAD_ANSWERS))
def test_a_comparison_keeps_the_other_rows(case):
    blocks = np.ones((3, 4, 4))
    failed, other = compare(blocks, "2:4", [returning(BAD_ANSWERS[case][0]), "bi-nm"], repeats=1)
    assert failed.failure.startswith("SolverFailedError: solver 'returning'")
    assert not other.failure
    assert other.objective > 0


def test_an_interrupt_in_a_solver_is_no_fault_of_the_solver():
    with pytest.raises(KeyboardInterrupt):
        tmask.solve(WEIGHT, "2:4", returning(KeyboardInterrupt()))


@pytest.mark.parametrize("error", [ZeroDivisionError("division by zero"), SystemExit(3)])
@pytest.mark.parametrize("at", ["_worker", "its worker"])
def test_what_goes_wrong_in_a_matrix_is_told_too(error, at):
    class Raising(WritingInPlace):
        def _worker(self, n, m, dtype):
            def solve(weight, mask, start):
                raise error

            if at == "_worker":
                raise error
            return solve

    with pytest.raises(tmask.SolverFailedError, match=rf"'writing-in-place', rows 0-11: {type(error).__name__}"):
        tmask.solve(WEIGHT, "2:4", Raising())


@pytest.mark.parametrize("answer", [None, "mask", "shape", ZeroDivisionError("division by zero")])
def test_what_goes_wrong_in_a_tensor_solver_is_told_too(answer):
    torch = pytest.importorskip("torch")
    from tests.solving.test_tensors import on_device
    from tmask.solving.tensor_solver import TensorAnswer, TensorSolver

    @dataclass(frozen=True)
    class Wrong(TensorSolver):
        name: ClassVar[str] = "wrong"
        exact: ClassVar[bool] = False

        def solve_tensor(self, scores, n):
            if isinstance(answer, BaseException):
                raise answer
            mask = torch.zeros(scores.shape, dtype=torch.bool)
            return {"mask": mask, "shape": TensorAnswer(mask[0])}.get(answer)

    for shape in ((8, 8), (6, 7)):
        for solve in (tmask.solve, on_device):
            with pytest.raises(tmask.SolverFailedError, match=r"^solver 'wrong'.* for the author of"):
                solve(torch.ones(shape), tmask.Pattern(2, 4), Wrong())

"""PDLP of OR-Tools: a first-order method on the linear programs of many blocks at once, rounded and repaired.

Restarted primal-dual hybrid gradient finds a fractional solution and column prices to a tolerance. The fractional mask
is rounded greedily and repaired to n per line (`shared.rounding`), and the prices are passed on, so that a certificate
shows where the result is optimal; the method itself proves nothing about the rounded mask. It is built for problems far
larger than these blocks.

Cost: O(B m^2) an iteration, hundreds to thousands of iterations. Source: [Applegate2021]; `ortools.pdlp.python.pdlp`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import scipy.sparse
from ortools.pdlp import solve_log_pb2, solvers_pb2
from ortools.pdlp.python import pdlp

from tmask.blocks.arrays import Masks, Prices, Scores
from tmask.errors import InvalidProblemError, SolverFailedError
from tmask.judging.answers import Answer
from tmask.solving.solver import Solver
from tmask_solvers.shared.rounding import round_to_regular
from tmask_solvers.shared.settings import check_count

# Scores below this part of a block's largest are far below any tolerance, and PDLP warns of them on stderr.
_NEGLIGIBLE = 2.0**-50


@dataclass(frozen=True)
class OrtoolsPdlp(Solver):
    """Near-optimal; optimal only where the certificate proves it.

    Args:
        blocks_per_model: blocks solved in one linear program.
        tolerance: relative optimality tolerance of the linear program.
        iteration_limit: iterations a model; when it is reached, what there is gets rounded.
    """

    blocks_per_model: int = 128
    tolerance: float = 1e-6
    iteration_limit: int = 20_000

    name: ClassVar[str] = "ortools-pdlp"
    exact: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ("ortools", "scipy")
    chunk: ClassVar[int] = 1 << 12

    def __post_init__(self) -> None:
        check_count("blocks_per_model", self.blocks_per_model)
        check_count("iteration_limit", self.iteration_limit)
        if not 0 < self.tolerance < 1:
            raise InvalidProblemError(f"tolerance must be between 0 and 1, got {self.tolerance}")

    def _solve(self, scores: Scores, n: int) -> Answer:
        num_blocks, side = scores.shape[:2]
        masks = np.empty(scores.shape, np.bool_)
        prices = np.empty((num_blocks, side))
        limit_reached = False
        for start in range(0, num_blocks, self.blocks_per_model):
            part = slice(start, start + self.blocks_per_model)
            masks[part], prices[part], converged = self._solve_model(scores[part], n, start)
            limit_reached |= not converged
        return Answer(masks, prices, limit_reached)

    def _solve_model(self, scores: Scores, n: int, first: int) -> tuple[Masks, Prices, bool]:
        count, side = scores.shape[:2]
        scaled, exponents = _normalise(scores)
        program = _program(scaled, n)
        result = pdlp.primal_dual_hybrid_gradient(program, self._parameters())
        log = result.solve_log
        if not isinstance(log, solve_log_pb2.SolveLog):
            log = solve_log_pb2.SolveLog.FromString(log)
        reason = log.termination_reason
        limited = reason == solve_log_pb2.TERMINATION_REASON_ITERATION_LIMIT
        if reason != solve_log_pb2.TERMINATION_REASON_OPTIMAL and not limited:
            name = solve_log_pb2.TerminationReason.Name(reason)
            raise SolverFailedError(f"solver {self.name!r}, blocks {first} to {first + count - 1}: {name}")
        fractional = np.asarray(result.primal_solution).reshape(scores.shape)
        # It minimises -score, so the price of a column is minus the dual of its constraint.
        duals = np.asarray(result.dual_solution).reshape(count, 2, side)
        prices = np.ldexp(-duals[:, 1], exponents)
        return round_to_regular(fractional, n), prices, not limited

    def _parameters(self) -> solvers_pb2.PrimalDualHybridGradientParams:
        parameters = solvers_pb2.PrimalDualHybridGradientParams()
        criteria = parameters.termination_criteria
        criteria.simple_optimality_criteria.eps_optimal_relative = self.tolerance
        # Relative alone: with scores scaled per block, an absolute one would be a second tolerance that nobody set.
        criteria.simple_optimality_criteria.eps_optimal_absolute = 0
        criteria.iteration_limit = self.iteration_limit
        return parameters


def _normalise(scores: Scores) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intc]]:
    """Scores (B, m, m) times a power of two a block, largest in [1/2, 1); and the exponents (B, 1) to undo it.

    A power of two, and not the largest score itself, since one over a subnormal overflows. A block of zeros becomes one
    of ones, which has the same optima: PDLP fails on an objective that is zero.
    """
    wide = scores.astype(np.float64)
    largest = wide.max((1, 2), keepdims=True)
    exponents = np.frexp(largest)[1]
    scaled = np.ldexp(wide, -exponents)
    scaled[scaled < _NEGLIGIBLE] = 0
    return np.where(largest > 0, scaled, 1.0), exponents[:, :, 0]


def _program(scores: npt.NDArray[np.float64], n: int) -> pdlp.QuadraticProgram:
    """Minimise -score over 0 <= x <= 1; each block has its row sums, then its column sums, all equal to n."""
    # Bounds keep the mask within 0 and 1, not constraints: PDLP meets them by cutting off.
    count, side = scores.shape[:2]
    ones = np.ones((1, side))
    lines = scipy.sparse.eye(side)
    block = scipy.sparse.vstack([scipy.sparse.kron(lines, ones), scipy.sparse.kron(ones, lines)])
    program = pdlp.QuadraticProgram()
    program.resize_and_initialize(scores.size, 2 * side * count)
    program.objective_vector = -scores.ravel()
    program.constraint_matrix = scipy.sparse.kron(scipy.sparse.eye(count), block).tocsc()
    program.constraint_lower_bounds = np.full(2 * side * count, float(n))
    program.constraint_upper_bounds = np.full(2 * side * count, float(n))
    program.variable_lower_bounds = np.zeros(scores.size)
    program.variable_upper_bounds = np.ones(scores.size)
    return program

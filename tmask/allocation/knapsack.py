"""The multiple-choice knapsack in whole numbers, by CP-SAT of OR-Tools [Perron2023]."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

from tmask.errors import InvalidProblemError, SolverFailedError, SolverUnavailableError

Item = TypeVar("Item")

# CP-SAT computes in int64, and its sums over all options must fit.
_LARGEST = 2**60


def choose(
    costs: Mapping[str, Mapping[Item, int]], weights: Mapping[str, Mapping[Item, int]], room: int
) -> dict[str, Item]:
    """One option of each class, so that the costs are least and the weights add up to no more than the room.

    Args:
        costs, weights: >= 0, by class and option; the same keys in both.
        room: at least the sum of each class's smallest weight.
    Returns:
        The option chosen, by class; the same one every time.
    Raises:
        InvalidProblemError: sums that 64 bits cannot hold.
        SolverUnavailableError: OR-Tools is not installed.
        SolverFailedError: CP-SAT gave no answer.
    """
    try:
        from ortools.sat.python import cp_model
    except ImportError as error:
        raise SolverUnavailableError(
            'this is solved by OR-Tools, which is not installed; run: pip install "tmask[ortools]"'
        ) from error
    # Weights of layers have large common factors; without them, more layers fit the 64 bits. All of them may be 0.
    unit = math.gcd(*(weight for options in weights.values() for weight in options.values())) or 1
    loads = {(name, item): weight // unit for name, options in weights.items() for item, weight in options.items()}
    if sum(loads.values()) > _LARGEST or sum(sum(options.values()) for options in costs.values()) > _LARGEST:
        raise InvalidProblemError(
            "too many layers, patterns and weights for CP-SAT's 64-bit sums; offer fewer patterns, of fewer different m"
        )
    model = cp_model.CpModel()
    taken = {key: model.new_bool_var("") for key in loads}
    for name, options in weights.items():
        model.add_exactly_one(taken[name, item] for item in options)
    terms = list(taken.values())
    model.add(cp_model.LinearExpr.weighted_sum(terms, list(loads.values())) <= room // unit)
    model.minimize(cp_model.LinearExpr.weighted_sum(terms, [costs[name][item] for name, item in taken]))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1  # several may return another of equally good answers each time
    # Gaps are tested in float64, which cannot tell large sums apart: with limits of 0 there is no such test.
    solver.parameters.relative_gap_limit = 0
    solver.parameters.absolute_gap_limit = 0
    status = solver.solve(model)  # without a time limit: the answer must not depend on how busy the machine is
    if status != cp_model.OPTIMAL:
        raise SolverFailedError(f"CP-SAT on {len(weights)} layers: {solver.status_name(status)}")
    return {name: item for (name, item), variable in taken.items() if solver.boolean_value(variable)}

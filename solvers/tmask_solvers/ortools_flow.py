"""Min-cost flow of OR-Tools (cost scaling push-relabel), one or several blocks a graph.

The same transportation problem as in `networkx_simplex`. Blocks do not share nodes, so one graph can hold many, which
spreads the cost of a call over them: four times faster at m = 4, a sixth at m = 16, level at m = 32, with nothing
gained beyond about 100 blocks (bench/results/ortools_flow_batch.csv).

Cost: O(m^3 log(m C)) a block for costs up to C, in practice near linear in m^2. Source: [Goldberg1997];
`ortools.graph.python.min_cost_flow.SimpleMinCostFlow`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from ortools.graph.python import min_cost_flow

from tmask.blocks.arrays import Masks, Scores
from tmask.errors import SolverFailedError
from tmask.judging.answers import Answer
from tmask.solving.solver import Solver
from tmask_solvers.shared.constants import GRID_BITS
from tmask_solvers.shared.integer import integer_scores
from tmask_solvers.shared.settings import check_count

Indices = npt.NDArray[np.int32]

# The solver multiplies costs by the number of nodes, in int64, and its node prices grow to several times that: at 62
# bits some graphs fail with BAD_COST_RANGE. Up to 32 blocks at side 64, 128 at side 16.
_SCALED_BITS = 58


@dataclass(frozen=True)
class OrtoolsFlow(Solver):
    """Exact, up to the rounding that `shared.integer` states.

    Args:
        blocks_per_graph: blocks solved in one graph; fewer where the integers would overflow.
    """

    blocks_per_graph: int = 128

    name: ClassVar[str] = "ortools-flow"
    exact: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("ortools",)
    chunk: ClassVar[int] = 1 << 12

    def __post_init__(self) -> None:
        check_count("blocks_per_graph", self.blocks_per_graph)

    def _solve(self, scores: Scores, n: int) -> Answer:
        num_blocks, side = scores.shape[:2]
        batch = min(self.blocks_per_graph, num_blocks, max(1, 2 ** (_SCALED_BITS - GRID_BITS) // (2 * side)))
        costs = -integer_scores(scores)  # the solver minimises
        masks = np.empty(scores.shape, np.bool_)
        for start in range(0, num_blocks, batch):
            part = costs[start : start + batch]
            masks[start : start + batch] = self._solve_graph(part, n, start)
        return Answer(masks)

    def _solve_graph(self, costs: npt.NDArray[np.int64], n: int, first: int) -> Masks:
        count, side = costs.shape[:2]
        tails, heads, nodes = _arcs(count, side)
        flow = min_cost_flow.SimpleMinCostFlow()
        arcs = flow.add_arcs_with_capacity_and_unit_cost(tails, heads, np.ones_like(tails), costs.ravel())
        # On the nodes themselves: a source and a sink would join blocks that have nothing to do with one another.
        flow.set_nodes_supplies(nodes, np.tile(np.repeat((n, -n), side), count))
        status = flow.solve()
        # Prices overflowed; with half of the nodes, by which costs are multiplied, they are half as large.
        if status == flow.BAD_COST_RANGE and count > 1:
            half = count // 2
            parts = (self._solve_graph(costs[:half], n, first), self._solve_graph(costs[half:], n, first + half))
            return np.concatenate(parts)
        if status != flow.OPTIMAL:
            raise SolverFailedError(f"solver {self.name!r}, blocks {first} to {first + count - 1}: {status}")
        return np.asarray(flow.flows(arcs) > 0).reshape(costs.shape)


@lru_cache(maxsize=16)
def _arcs(count: int, side: int) -> tuple[Indices, Indices, Indices]:
    """Tail and head of every arc, block by block and row by row; and all nodes, per block rows, then columns."""
    rows = np.arange(side, dtype=np.int32)
    base = np.arange(count, dtype=np.int32)[:, None, None] * np.int32(2 * side)
    shape = (count, side, side)
    tails = np.broadcast_to(base + rows[:, None], shape).ravel()
    heads = np.broadcast_to(base + np.int32(side) + rows, shape).ravel()
    return tails, heads, np.arange(count * 2 * side, dtype=np.int32)

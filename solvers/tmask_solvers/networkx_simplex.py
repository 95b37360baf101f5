"""Network simplex of NetworkX, one block a graph.

The transportation problem as a min-cost flow: every row node supplies n, every column node demands n, and an arc of
capacity 1 and cost -score joins each pair [Hubara2021, section 3.1]. Supplies on the nodes replace the source and the
sink of the paper's graph, which halves the time. Costs are integers (`shared.integer`): on floats the method may never
end.

Cost: pure Python, about a millisecond a block at m = 8; the simplest oracle.
Source: [Ahuja1993, chapter 11]; `networkx.network_simplex`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import networkx
import numpy as np

from tmask.blocks.arrays import Masks, Scores
from tmask.errors import SolverFailedError
from tmask.judging.answers import Answer
from tmask.solving.solver import Solver
from tmask_solvers.shared.integer import integer_scores


@dataclass(frozen=True)
class NetworkxSimplex(Solver):
    """Exact, up to the rounding that `shared.integer` states; no settings."""

    name: ClassVar[str] = "networkx-simplex"
    exact: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("networkx",)
    chunk: ClassVar[int] = 64

    def _solve(self, scores: Scores, n: int) -> Answer:
        masks = np.zeros(scores.shape, np.bool_)
        for index, costs in enumerate(-integer_scores(scores)):
            try:
                # Not the cost that comes with it, which is that of rounded scores.
                _, flow = networkx.network_simplex(_graph(costs.tolist(), n))
            except networkx.NetworkXException as error:
                raise SolverFailedError(f"solver {self.name!r}, block {index}: {error}") from error
            _read(flow, masks[index])
        return Answer(masks)


def _graph(costs: list[list[int]], n: int) -> networkx.DiGraph:
    """Rows are nodes 0 to m-1, columns m to 2m-1."""
    side = len(costs)
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(side), demand=-n)
    graph.add_nodes_from(range(side, 2 * side), demand=n)
    graph.add_edges_from(
        (i, side + j, {"capacity": 1, "weight": cost}) for i, row in enumerate(costs) for j, cost in enumerate(row)
    )
    return graph


def _read(flow: dict[int, dict[int, int]], out: Masks) -> None:
    side = len(out)
    for i in range(side):
        for column, amount in flow[i].items():
            out[i, column - side] = amount > 0

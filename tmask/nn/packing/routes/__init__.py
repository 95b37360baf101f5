"""The routes to sparse tensor cores, in the order of preference. One more is one file and one line here."""

from __future__ import annotations

import torch

from tmask.nn.packing.routes.base import TOKENS_MULTIPLE, Operand, Route
from tmask.nn.packing.routes.cusparselt import Cusparselt
from tmask.nn.packing.routes.cutlass import Cutlass

__all__ = ["ROUTES", "TOKENS_MULTIPLE", "Operand", "Route", "find_route"]

ROUTES: dict[str, Route] = {route.name: route for route in (Cutlass(), Cusparselt())}


def find_route(device: torch.device) -> tuple[Route | None, str]:
    """The route that this device takes and "", or None and why there is none."""
    # On a machine without a GPU, all routes say the same, which is told once.
    problems: dict[str, None] = {}  # an ordered set
    for route in ROUTES.values():
        if not (problem := route.problem(device)):
            return route, ""
        problems[problem] = None
    return None, "; ".join(problems)

"""The calls that bench.gpu times on one weight."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import tmask
from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.judging.worth import Worth
from tmask.solving.devices import solve_many_on_device
from tmask.solving.registry import DEVICE_AUTO, available_solvers, get_solver, solver_class
from tmask.solving.request import Request
from tmask.solving.tensor_solver import TensorSolver
from tmask_solvers.torch_kernels.closed import solve_closed
from tmask_solvers.torch_kernels.rounds import iterate

Row = dict[str, Any]
Call = Callable[[], Row]

SOLVERS = ("midpoint-cuda", "midpoint-torch", "entropic", "greedy-keep")
_ON_CPU = "midpoint"  # with both transfers
CHOICES = (*SOLVERS, _ON_CPU)
_LAYERS = 4
_SHARE_ENTRIES = 1 << 22  # enough to know which share of blocks the rounds leave


def calls_on(weight: Tensor, pattern: Pattern, solvers: Sequence[str] = CHOICES) -> dict[tuple[str, str], Call]:
    """What is timed on a weight (side, side), wherever that lies, by those of the solvers that can be used there."""
    # Outside the calls, so that no allocation is timed.
    mask = torch.empty(weight.shape, dtype=torch.bool, device=weight.device)
    other = torch.empty_like(weight)
    blocks = weight.numel() // pattern.m**2

    def copy() -> Row:
        other.copy_(weight)
        return {"bytes": 2 * weight.nbytes}

    def floor() -> Row:
        torch.gt(weight, 0, out=mask)
        return {"bytes": weight.nbytes + mask.nbytes}

    calls: dict[tuple[str, str], Call] = {("memory", "copy"): copy, ("memory", "floor"): floor}
    for name in solvers_on(weight.device.type):
        if name not in solvers:
            continue
        calls["masks", name] = _masks_alone(name, weight, mask, pattern, {"blocks": blocks})
        calls["solve", name] = _solving(name, weight, pattern, {"blocks": blocks})
        if name in DEVICE_AUTO:
            calls["ties", name] = _masks_alone(name, (2 * weight).round(), mask, pattern, {"blocks": blocks})
            calls["layers", name] = _together(name, weight, pattern, {"blocks": blocks})
    if _ON_CPU in solvers:
        calls["solve", f"{_ON_CPU}, CPU"] = _through_cpu(weight, pattern, {"blocks": blocks})
    return calls


def solvers_on(device_type: str) -> list[str]:
    """The solvers that are installed and take tensors on devices of this type."""
    found = []
    for name in SOLVERS:
        if name in available_solvers():
            cls = solver_class(name)
            if not issubclass(cls, TensorSolver):
                raise InvalidProblemError(f"solver {name!r} does not take tensors")
            if cls.takes_device(device_type):
                found.append(name)
    return found


def _masks_alone(name: str, weight: Tensor, mask: Tensor, pattern: Pattern, row: Row) -> Call:
    solver = get_solver(name)
    assert isinstance(solver, TensorSolver), "solvers_on gives no others"
    left = share_left(weight, pattern) if name == "midpoint-torch" else ""

    def call() -> Row:
        solver.solve_matrices(weight[None, None], pattern.n, pattern.m, mask[None, None])
        return row | {"left": left}

    return call


def _together(name: str, weight: Tensor, pattern: Pattern, row: Row) -> Call:
    """The matrix as layers of a model, which a renewal solves, judges and fetches at once."""
    solver = get_solver(name)
    layers = weight.view(_LAYERS, -1, weight.shape[1]).unbind()
    requests = [Request(layer, pattern, solver) for layer in layers]

    def call() -> Row:
        worth = Worth.sum(answer.worth for _, answers in solve_many_on_device(requests) for answer in answers)
        return row | {"gap": worth.optimality_gap}

    return call


def _solving(name: str, weight: Tensor, pattern: Pattern, row: Row) -> Call:
    exact = get_solver(name).exact  # a heuristic's bound would cost the optimum

    def call() -> Row:
        solution = tmask.solve(weight, pattern, name, certify=exact)
        return row | {"gap": "" if solution.optimality_gap is None else solution.optimality_gap}

    return call


def _through_cpu(weight: Tensor, pattern: Pattern, row: Row) -> Call:
    def call() -> Row:
        solution = tmask.solve(weight.cpu(), pattern, _ON_CPU, threads=os.cpu_count() or 1)
        # The way back is part of the price.
        solution.mask.to(weight.device)
        return row | {"gap": solution.optimality_gap}

    return call


def share_left(weight: Tensor, pattern: Pattern) -> float:
    """The share of blocks that closed forms or rounds do not solve: ties, and what does not balance in time."""
    n, m = pattern.n, pattern.m
    rows = max(1, min(len(weight) // m, _SHARE_ENTRIES // (m * weight.shape[1])))
    tiles = weight[: rows * m].view(rows, m, -1, m).transpose(1, 2).reshape(-1, m, m)
    stack = tiles.float().abs().permute(1, 2, 0).contiguous()
    solved = solve_closed(stack, n)[1] if m == 4 else iterate(stack, n).done
    return 1 - float(solved.double().mean())

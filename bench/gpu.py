"""Masks on a CUDA device: milliseconds a matrix, beside the time that reading it and writing a mask takes.

    python -m bench.gpu [--patterns 2:4,4:8] [--sides 1024,4096] [--dtypes float32,bfloat16]

Three kinds of calls are timed with CUDA events. `masks`: a solver alone, from the matrix to its mask, both on the
device. `solve`: `tmask.solve` as a user calls it, checks and proof included. `memory`: a copy of the matrix, and the
floor, which reads the matrix and writes a mask with no thought. The solver on the CPU includes both transfers. Calls of
a group run in turn, so that a slow moment of the machine hits all of them; the first call of each, which may compile,
is a row of its own (`repeat` -1).

Without a CUDA device nothing is measured, nothing is written, and the exit code is 3.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

import tmask
from bench.gpu_report import report
from bench.rows import RESULTS, commit, read_rows
from tmask.blocks.pattern import Pattern
from tmask.comparison.environment import environment
from tmask.errors import InvalidProblemError
from tmask.files.atomic import check_output
from tmask.files.csv_files import write_csv
from tmask.solving.registry import available_solvers, get_solver, solver_class
from tmask.solving.tensor_solver import TensorSolver
from tmask_solvers.torch_kernels.closed import solve_closed
from tmask_solvers.torch_kernels.rounds import iterate

Row = dict[str, Any]
Call = Callable[[], Row]
Timer = Callable[[Call], tuple[float, Row]]

NO_DEVICE = 3
PATTERNS = ("1:4", "2:4", "2:8", "4:8", "4:16", "8:16", "16:32")
SIDES = (1024, 2048, 4096, 8192, 16384)
DTYPES = ("float32", "bfloat16")
SOLVERS = ("midpoint-cuda", "midpoint-torch", "entropic", "greedy-keep")
COLUMNS = ("n", "m", "side", "dtype", "call", "solver", "repeat", "seconds", "blocks", "bytes", "left", "gap")
_SHARE_ENTRIES = 1 << 22  # enough to know which share of blocks the rounds leave


def by_events(call: Call) -> tuple[float, Row]:
    """Seconds from before to after a call on the current CUDA stream, and what it returned."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    row = call()
    stop.record()
    torch.cuda.synchronize()
    return start.elapsed_time(stop) / 1000, row


def measure(calls: dict[tuple[str, str], Call], timer: Timer, repeats: int, budget: float) -> Iterator[Row]:
    """The first call of each, then all in turn; a call that is slow has fewer turns, about `budget` seconds in all."""
    turns = {}
    for (kind, solver), call in calls.items():
        seconds, row = timer(call)
        yield {"call": kind, "solver": solver, "repeat": -1, "seconds": seconds} | row
        warm, _ = timer(call)
        turns[kind, solver] = max(1, min(repeats, int(budget / max(warm, 1e-9))))
    for repeat in range(repeats):
        for (kind, solver), call in calls.items():
            if repeat < turns[kind, solver]:
                seconds, row = timer(call)
                yield {"call": kind, "solver": solver, "repeat": repeat, "seconds": seconds} | row


def calls_on(weight: Tensor, pattern: Pattern) -> dict[tuple[str, str], Call]:
    """What is timed on a weight (side, side), wherever that lies."""
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
        calls["masks", name] = _masks_alone(name, weight, mask, pattern, {"blocks": blocks})
        calls["solve", name] = _solving(name, weight, pattern, {"blocks": blocks})
    calls["solve", "midpoint, CPU"] = _through_cpu(weight, pattern, {"blocks": blocks})
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


def _solving(name: str, weight: Tensor, pattern: Pattern, row: Row) -> Call:
    exact = get_solver(name).exact  # a heuristic's bound would cost the optimum

    def call() -> Row:
        solution = tmask.solve(weight, pattern, name, certify=exact)
        return row | {"gap": "" if solution.optimality_gap is None else solution.optimality_gap}

    return call


def _through_cpu(weight: Tensor, pattern: Pattern, row: Row) -> Call:
    def call() -> Row:
        solution = tmask.solve(weight.cpu(), pattern, "midpoint", threads=os.cpu_count() or 1)
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


def groups_of(
    device: str, patterns: list[Pattern], sides: list[int], dtypes: list[str], timer: Timer, repeats: int, budget: float
) -> Iterator[list[Row]]:
    """The rows of each side, dtype and pattern; N(0, 1) weights, the same for every pattern of a size."""
    for side in sides:
        for dtype in dtypes:
            generator = torch.Generator(device).manual_seed(side)
            weight = torch.randn(side, side, generator=generator, device=device).to(getattr(torch, dtype))
            for pattern in patterns:
                print(f"{pattern}, {side} x {side}, {dtype}", file=sys.stderr)
                head = {"n": pattern.n, "m": pattern.m, "side": side, "dtype": dtype}
                rows = measure(calls_on(weight, pattern), timer, repeats, budget)
                yield [dict.fromkeys(COLUMNS, "") | head | row for row in rows]


def replaced(rows: list[Row], group: list[Row]) -> list[Row]:
    """Rows of earlier runs, as texts, without those of this device, side, dtype and pattern, and then these."""
    key = ("device", "side", "dtype", "n", "m")
    own = [str(group[0][name]) for name in key]
    return [row for row in rows if [str(row[name]) for name in key] != own] + group


def main(
    out: Annotated[
        Path, typer.Option(help="The CSV file; rows of other devices, sides, dtypes and patterns stay.")
    ] = RESULTS / "gpu.csv",
    patterns: Annotated[str, typer.Option(help="N:M, separated by commas.")] = ",".join(PATTERNS),
    sides: Annotated[str, typer.Option(help="Sides of the matrices, separated by commas.")] = ",".join(map(str, SIDES)),
    dtypes: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(DTYPES),
    repeats: Annotated[int, typer.Option(help="Timed calls of each.")] = 15,
    budget: Annotated[float, typer.Option(help="Seconds for the repeats of a slow call, about.")] = 2.0,
) -> None:
    """Run the benchmark, and print its table."""
    if unknown := [name for name in dtypes.split(",") if name not in (*DTYPES, "float16", "float64")]:
        raise InvalidProblemError(f"no dtype {unknown[0]!r}; there are: float16, bfloat16, float32, float64")
    chosen = [Pattern.parse(text) for text in patterns.split(",")]
    lengths = [int(text) for text in sides.split(",")]
    if not torch.cuda.is_available():
        print("there is no CUDA device here: nothing was measured", file=sys.stderr)
        raise typer.Exit(NO_DEVICE)
    check_output(out, overwrite=True)
    machine = {"device": torch.cuda.get_device_name(), "commit": commit()} | environment()
    rows: list[Row] = list(read_rows(out))
    for group in groups_of("cuda", chosen, lengths, dtypes.split(","), by_events, repeats, budget):
        rows = replaced(rows, [row | machine for row in group])
        write_csv(out, rows, overwrite=True)
    print(report(rows))
    print(f"{len(rows)} rows in {out}", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)

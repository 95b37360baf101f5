"""Masks on a CUDA device: milliseconds a matrix, beside the time that reading it and writing a mask takes.

    python -m bench.gpu [--patterns 2:4,4:8] [--sides 1024,4096] [--dtypes float32,bfloat16]

Five kinds of calls are timed with CUDA events. `masks`: a solver alone, from the matrix to its mask, both on the
device; `ties` the same for the matrix rounded to small integers. `solve`: `tmask.solve` as a user calls it, checks and
proof included; `layers` the same for the matrix as four layers, at once, as a renewal does. `memory`: a copy of the
matrix, and the floor, which reads the matrix and writes a mask with no thought. The solver on the CPU includes both
transfers. Calls of a group run in turn, so that a slow moment of the machine hits all of them; the first call of each,
which may compile, is a row of its own (`repeat` -1).

Without a CUDA device nothing is measured, nothing is written, and the exit code is 3. `--dry-run` makes every call once
on the CPU, at a side of 64, and writes nothing either.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from bench.gpu_calls import CHOICES, Call, Row, calls_on
from bench.gpu_report import report
from bench.rows import RESULTS, commit, read_rows
from tmask.blocks.pattern import Pattern
from tmask.comparison.environment import environment
from tmask.errors import InvalidProblemError
from tmask.files.atomic import check_output
from tmask.files.csv_files import write_csv

Timer = Callable[[Call], tuple[float, Row]]

NO_DEVICE = 3
PATTERNS = ("1:4", "2:4", "2:8", "4:8", "4:16", "8:16", "16:32")
SIDES = (1024, 2048, 4096, 8192, 16384)
DTYPES = ("float32", "bfloat16")
COLUMNS = ("n", "m", "side", "dtype", "call", "solver", "repeat", "seconds", "blocks", "bytes", "left", "gap")


def by_events(call: Call) -> tuple[float, Row]:
    """Seconds from before to after a call on the current CUDA stream, and what it returned."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    # Work queued before would hide the time that this call's launches take.
    torch.cuda.synchronize()
    start.record()
    row = call()
    stop.record()
    torch.cuda.synchronize()
    return start.elapsed_time(stop) / 1000, row


def by_clock(call: Call) -> tuple[float, Row]:
    """The same on a CPU, for a dry run."""
    begin = time.perf_counter()
    row = call()
    return time.perf_counter() - begin, row


def measure(calls: dict[tuple[str, str], Call], timer: Timer, repeats: int, budget: float) -> Iterator[Row]:
    """The first call of each, then all in turn; a call that is slow has fewer turns, about `budget` seconds in all."""
    turns = {}
    for (kind, solver), call in calls.items():
        seconds, row = timer(call)
        yield {"call": kind, "solver": solver, "repeat": -1, "seconds": seconds} | row
        # The first call may have compiled, so the second tells how many turns there is time for.
        warm, _ = timer(call)
        turns[kind, solver] = max(1, min(repeats, int(budget / max(warm, 1e-9))))
    for repeat in range(repeats):
        for (kind, solver), call in calls.items():
            if repeat < turns[kind, solver]:
                seconds, row = timer(call)
                yield {"call": kind, "solver": solver, "repeat": repeat, "seconds": seconds} | row


def groups_of(
    device: str,
    patterns: list[Pattern],
    sides: list[int],
    dtypes: list[str],
    timer: Timer,
    repeats: int,
    budget: float,
    solvers: Sequence[str] = CHOICES,
) -> Iterator[list[Row]]:
    """The rows of each side, dtype and pattern; N(0, 1) weights, the same for every pattern of a size."""
    for side in sides:
        for dtype in dtypes:
            generator = torch.Generator(device).manual_seed(side)
            weight = torch.randn(side, side, generator=generator, device=device).to(getattr(torch, dtype))
            for pattern in patterns:
                print(f"{pattern}, {side} x {side}, {dtype}", file=sys.stderr)
                head = {"n": pattern.n, "m": pattern.m, "side": side, "dtype": dtype}
                rows = measure(calls_on(weight, pattern, solvers), timer, repeats, budget)
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
    solvers: Annotated[str, typer.Option(help="Those to measure, separated by commas.")] = ",".join(CHOICES),
    dry_run: Annotated[bool, typer.Option(help="Only see whether all calls work, on the CPU.")] = False,
) -> None:
    """Run the benchmark, and print its table."""
    if unknown := [name for name in dtypes.split(",") if name not in (*DTYPES, "float16", "float64")]:
        raise InvalidProblemError(f"no dtype {unknown[0]!r}; there are: float16, bfloat16, float32, float64")
    if unknown := [name for name in solvers.split(",") if name not in CHOICES]:
        raise InvalidProblemError(f"no solver {unknown[0]!r} here; there are: {', '.join(CHOICES)}")
    chosen = [Pattern.parse(text) for text in patterns.split(",")]
    lengths = [int(text) for text in sides.split(",")]
    if dry_run:  # by all that run on a CPU: of those that are asked for, none may
        rows = [row for group in groups_of("cpu", chosen, [64], dtypes.split(","), by_clock, 1, 0.0) for row in group]
        print(report([row | {"device": "no device"} for row in rows]))
        print("a dry run: these are times of a CPU, and nothing was measured", file=sys.stderr)
        return
    if not torch.cuda.is_available():
        print("there is no CUDA device here: nothing was measured", file=sys.stderr)
        raise typer.Exit(NO_DEVICE)
    check_output(out, overwrite=True)
    machine = {"device": torch.cuda.get_device_name(), "commit": commit()} | environment()
    rows = list(read_rows(out))
    wanted = groups_of("cuda", chosen, lengths, dtypes.split(","), by_events, repeats, budget, solvers.split(","))
    for group in wanted:
        # After each group, so that a run that is cut off loses one at most.
        rows = replaced(rows, [row | machine for row in group])
        write_csv(out, rows, overwrite=True)
    print(report(rows))
    print(f"{len(rows)} rows in {out}", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)

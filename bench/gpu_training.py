"""What no CPU can check or measure: 2:4 kernels in training, on this machine's GPU. One CSV row per number.

    python -m bench.gpu_training [--scale small] [--out FILE]

Parts: `check`, errors of packed and of dense masked linear layers against float64, for forward and both gradients;
`linear`, seconds of a layer by sizes and tokens; `packing`, of a weight at each step and of a mask at each renewal;
`renewal`, of finding a mask; `block`, a training step of a GPT block by backend, with what "auto" takes too, and the
renewals' share of it. `--compiled last`, or `only`, adds `compiled`: that step under torch.compile, each backend over a
dense one in the same mode; minutes, nearly all of them the compiler's.
Times are medians by CUDA events, taken in turn. Without a GPU it measures nothing, writes nothing, and exits with 3.
`--dry-run` goes through all parts once on the CPU, in a small size, and writes nothing either.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.gpu_parts import Row, auto, block, check, linear, packing, renewal
from bench.gpu_torch_compile import MODES, Case, compiled_cases
from bench.rows import RESULTS, commit
from tmask.comparison.environment import environment
from tmask.errors import InvalidProblemError, TmaskError
from tmask.files.atomic import check_output
from tmask.files.csv_files import write_csv
from tmask.nn.packing.machine import examine
from tmask.nn.packing.routes import ROUTES

NO_GPU = 3


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes: weights (out, in), tokens, and blocks (width, batch, sequence); modes that blocks are compiled in."""

    shapes: tuple[tuple[int, int], ...]
    tokens: tuple[int, ...]
    blocks: tuple[tuple[int, int, int], ...]
    repeats: int = 11
    modes: tuple[str, ...] = tuple(MODES)


SCALES = {
    "small": Scale(
        ((4096, 11008), (1024, 1024)),
        (4096, 16384),
        ((4096, 4, 2048), (1024, 8, 1024)),
        repeats=5,
        modes=("reduce_overhead",),
    ),
    "full": Scale(
        ((1024, 1024), (2048, 2048), (4096, 4096), (4096, 16384), (16384, 4096), (8192, 8192)),
        (128, 512, 2048, 8192, 32768),
        ((1024, 16, 1024), (2048, 8, 2048), (4096, 4, 2048)),
    ),
}

_TINY = Scale(((64, 64),), (32,), ((64, 1, 32),), repeats=1)

COMPILED = ("no", "last", "only")  # where the steps under torch.compile come


def cases(device: torch.device, scale: Scale, solver: str, compiled: str = "no") -> Iterator[Case]:
    """Everything that is measured, most telling first; what a device or a shape rules out is a row as well."""
    if compiled != "only":
        yield from _uncompiled(device, scale, solver)
    if compiled != "no":
        yield from compiled_cases(device, scale.blocks, scale.modes, solver, scale.repeats)


def _uncompiled(device: torch.device, scale: Scale, solver: str) -> Iterator[Case]:
    for width, batch, length in scale.blocks:
        base = Row("block", "", "bfloat16", width, width, batch * length, "", "", None)
        yield base, lambda b=base, s=(batch, length): block(b, s, device, solver, scale.repeats)  # type: ignore[misc]
        base = dataclasses.replace(base, backend="auto")
        yield base, lambda b=base, s=(batch, length): auto(b, s, device, solver, scale.repeats)  # type: ignore[misc]
    for route, dtype in itertools.product(ROUTES.values(), (torch.bfloat16, torch.float16)):
        name = str(dtype).removeprefix("torch.")
        if problem := route.problem(device):
            row = Row("check", route.name, name, 0, 0, 0, "", "", None, problem)
            yield row, _raising(problem)
            continue
        for rows, cols in scale.shapes:
            base = Row("check", route.name, name, rows, cols, scale.tokens[0], "", "", None)
            yield base, lambda b=base, r=route, d=dtype: check(b, r, d, device)  # type: ignore[misc]
            for tokens in scale.tokens:
                base = Row("linear", route.name, name, rows, cols, tokens, "", "", None)
                yield base, lambda b=base, r=route, d=dtype: linear(b, r, d, device, scale.repeats)  # type: ignore[misc]
            base = Row("packing", route.name, name, rows, cols, 0, "", "", None)
            yield base, lambda b=base, r=route, d=dtype: packing(b, r, d, device, scale.repeats)  # type: ignore[misc]
    for rows, cols in scale.shapes:
        base = Row("renewal", "", "bfloat16", rows, cols, 0, solver, "", None)
        yield base, lambda b=base: renewal(b, device, scale.repeats)  # type: ignore[misc]


def _raising(problem: str) -> Callable[[], Iterator[Row]]:
    def run() -> Iterator[Row]:
        raise InvalidProblemError(problem)

    return run


def measure(device: torch.device, scale: Scale, solver: str, out: Path, compiled: str = "no") -> list[dict[str, Any]]:
    """Run every case; the CSV is written anew, whole, after each number, so that an interrupt loses one."""
    machine = {
        f"gpu_{name}": value for name, value in asdict(examine(device)).items() if name not in ("problem", "torch")
    }
    # bench/__init__.py asks for one thread, which the user's own setting overrides; solvers that run on the CPU use it.
    machine |= {"commit": commit(), "threads": os.environ["OMP_NUM_THREADS"], **environment()}
    rows: list[dict[str, Any]] = []
    for base, run in cases(device, scale, solver, compiled):
        for row in _or_failure(base, run):
            print(" ".join(str(value) for value in asdict(row).values() if value not in ("", 0)), flush=True)
            rows.append(asdict(row) | machine)
            write_csv(out, rows, overwrite=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return rows


def _or_failure(base: Row, run: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    try:
        yield from run()
    except (TmaskError, RuntimeError) as error:  # memory that does not suffice is one too
        yield dataclasses.replace(base, failure=" ".join(str(error).split()))


def main(
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = RESULTS / "gpu_training.csv",
    scale: Annotated[str, typer.Option(help="small or full.")] = "full",
    solver: Annotated[str, typer.Option(help="That finds the masks.")] = "auto",
    compiled: Annotated[str, typer.Option(help="Steps under torch.compile: no, last, or only these.")] = "no",
    dry_run: Annotated[bool, typer.Option(help="Only see whether all parts work, on the CPU.")] = False,
) -> None:
    """Check and measure the 2:4 kernels on this machine's GPU."""
    if scale not in SCALES:
        raise InvalidProblemError(f"no scale {scale!r}; there are: {', '.join(SCALES)}")
    if compiled not in COMPILED:
        raise InvalidProblemError(f"compiled is {compiled!r}; it can be: {', '.join(COMPILED)}")
    if dry_run:
        with tempfile.TemporaryDirectory() as folder:
            measure(torch.device("cpu"), _TINY, solver, Path(folder, "rows.csv"), compiled)
        print("a dry run: nothing was measured", file=sys.stderr)
        return
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured, nothing was written", file=sys.stderr)
        raise typer.Exit(NO_GPU)
    check_output(out, overwrite=True)
    rows = measure(torch.device("cuda", torch.cuda.current_device()), SCALES[scale], solver, out, compiled)
    print(f"{len(rows)} rows in {out}")


if __name__ == "__main__":
    typer.run(main)

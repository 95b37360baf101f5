"""Compile what the other parts of `bench.gpu_all` use, all cores at once, and leave it on disk for them.

    python -m bench.gpu_compile [--dry-run]

A kernel takes 1 to 4 s of one core, and the parts use some forty on the device and a few on the CPU: one after the
other, at their first calls, they would take longer than most parts may. Only the device's compute capability is asked
for; `--dry-run` names the kernels and compiles none.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Annotated, Any

import torch
import typer

import tmask
from bench.gpu_kernels import pretended, types_of
from tmask.blocks.pattern import Pattern
from tmask_solvers.cuda_kernels import direct
from tmask_solvers.cuda_kernels.code.kernels import Kernel
from tmask_solvers.cuda_kernels.cubins import CubinKey
from tmask_solvers.cuda_kernels.usable import require_gpu

PATTERNS = "2:4,4:8,8:16,16:32"
DTYPES = "float32,bfloat16"
_HOST = "midpoint"  # to which all is compared


def kernels(patterns: list[Pattern], dtypes: list[str]) -> Iterator[tuple[Kernel, str]]:
    """The kernels of a call on one matrix, and on many, with their dtype's name; those that take longest first."""
    for kind, pattern, dtype, many in itertools.product(
        ("paths", "closed", "rounds", "judge", "tally"), patterns, dtypes, (False, True)
    ):
        # 4 x 4 tiles have closed forms, and are looked at by a kernel of their own.
        if kind == "paths" or (kind in ("closed", "tally")) == (pattern.m == 4):
            real = getattr(torch, dtype)
            yield Kernel(kind, pattern.n, pattern.m, real, many, packed=kind == "closed"), dtype


def compile_kernel(kernel: Kernel, dtype: str, capability: tuple[int, int]) -> float:
    """Seconds that it took; next to nothing where it was there already."""
    begin = time.perf_counter()
    key = CubinKey(kernel.name, tuple(types_of(kernel.kind, dtype, kernel.many)), capability)

    @contextmanager
    def numba() -> Iterator[Any]:
        import numba.cuda

        with pretended(capability):
            yield numba.cuda

    direct.cubin_of(key, kernel, numba)
    return time.perf_counter() - begin


def compile_host(pattern: str) -> float:
    """The same for the CPU's kernels of a pattern."""
    begin = time.perf_counter()
    tmask.solve(torch.ones(64, 64), pattern, _HOST)
    return time.perf_counter() - begin


def compile_all(patterns: list[Pattern], dtypes: list[str], capability: tuple[int, int]) -> int:
    """Print a line for each as it ends; returns how many failed."""
    failed = 0
    # Not forked: a process that has asked for the device is of no use to its children.
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(compile_host, str(pattern)): f"{_HOST} {pattern}" for pattern in patterns}
        for kernel, dtype in kernels(patterns, dtypes):
            running[pool.submit(compile_kernel, kernel, dtype, capability)] = kernel.name
        for future in as_completed(running):
            error = future.exception()
            failed += error is not None
            print(f"{running[future]}: {f'{future.result():.1f} s' if error is None else repr(error)}", flush=True)
    return failed


def main(
    patterns: Annotated[str, typer.Option(help="N:M, separated by commas.")] = PATTERNS,
    dtypes: Annotated[str, typer.Option(help="Separated by commas.")] = DTYPES,
    dry_run: Annotated[bool, typer.Option(help="Only name the kernels.")] = False,
) -> None:
    """Compile them all."""
    chosen, names = [Pattern.parse(text) for text in patterns.split(",")], dtypes.split(",")
    if dry_run:
        print(*(kernel.name for kernel, _ in kernels(chosen, names)), sep="\n")
        return
    require_gpu("midpoint-cuda")  # says what is missing, before every process does
    raise typer.Exit(int(compile_all(chosen, names, torch.cuda.get_device_capability()) > 0))


if __name__ == "__main__":
    typer.run(main)

"""The parts of bench.matrix: each yields rows of numbers for one pattern."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np

import tmask
from bench.cases import CASES, Case
from bench.matrix_calls import SIDE, floor, matrix, solving
from bench.matrix_training import layer_in_training
from bench.turns import Row, measure
from tmask.blocks.pattern import Pattern

# What `midpoint` is compared with, and how many rows of the matrix that sees; the slow ones not all.
_OTHERS = {"greedy-keep": SIDE, "ortools-flow": 256, "networkx-simplex": 32}


def ratios(pattern: Pattern, cases: list[Case]) -> Iterator[Row]:
    """`midpoint` against others, and against the floor."""
    for case in cases:
        weight = matrix(case, pattern)
        calls = {"midpoint": solving(weight, pattern, "midpoint"), "read and write": floor(weight, pattern)}
        for name, rows in _OTHERS.items():
            calls[name] = solving(weight[:rows], pattern, name, certify=False)
        yield from ({"case": case.name} | row for row in measure(calls, 7))


def threads(pattern: Pattern, cases: list[Case]) -> Iterator[Row]:
    """One thread and two on 8192 x 8192, and what the memory gives each of them: reading and writing alone."""
    side = 4 * SIDE
    weight = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)
    calls = {}
    for count in (1, 2):
        calls[f"midpoint, {count}"] = solving(weight, pattern, "midpoint", threads=count)
        calls[f"read and write, {count}"] = floor(weight, pattern, count)
    for row in measure(calls, 9):
        yield {"case": "normal", "side": side} | row | {"solver": row["solver"].rpartition(",")[0]}


def dtypes(pattern: Pattern, cases: list[Case]) -> Iterator[Row]:
    """The same weights in every dtype; bfloat16 needs torch."""
    import torch

    weight = matrix(cases[0], pattern)
    tensor = torch.from_numpy(weight)
    kinds = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    calls = {str(kind): solving(tensor.to(kind), pattern, "midpoint") for kind in kinds}
    for row in measure(calls, 5):
        yield {"case": cases[0].name, "dtype": row["solver"].removeprefix("torch.")} | row | {"solver": "midpoint"}


def distributions(pattern: Pattern, cases: list[Case]) -> Iterator[Row]:
    """What ties cost: float32 matrices of every case, and of 8-bit steps, of one step, and of zeros."""
    weights = {case.name: matrix(case, pattern) for case in (*CASES, *cases[1:])}
    normal = weights["normal"]
    weights |= {
        "int8": np.round(normal * np.float32(32)).clip(0, 127) * np.float32(0.03),
        "constant": np.full_like(normal, 0.7),
        "zero": np.zeros_like(normal),
    }
    calls = {name: solving(weight, pattern, "midpoint") for name, weight in weights.items()}
    yield from ({"case": row["solver"]} | row | {"solver": "midpoint"} for row in measure(calls, 5))


def curve(pattern: Pattern, cases: list[Case]) -> Iterator[Row]:
    """Time a weight against the size of the matrix."""
    rng = np.random.default_rng(0)
    for side in (256, 512, 1024, 2048, 4096, 8192, 16384):
        weight = rng.standard_normal((side, side), dtype=np.float32)
        repeats = 15 if side < 2048 else 5 if side < 16384 else 3
        calls = {"midpoint": solving(weight, pattern, "midpoint")}
        yield from ({"case": "normal", "side": side} | row for row in measure(calls, repeats))


def proofs(pattern: Pattern, cases: list[Case]) -> Iterator[Row]:
    """A million blocks: `certify` proves every mask of `solve` from the weights alone, with duals of its own."""
    rng = np.random.default_rng(1)
    m, total = pattern.m, 1 << 20
    # In pieces: a million blocks of 32 x 32 would take 4 GiB at once.
    height = 64 * m
    width = min(total // 64, 1 << 14) * m // (1 if m < 16 else m // 8)
    blocks = proven = 0
    begin = time.perf_counter()
    while blocks < total:
        weight = rng.standard_normal((height, width), dtype=np.float32)
        certificate = tmask.certify(weight, tmask.solve(weight, pattern, "midpoint").mask, pattern)
        blocks += certificate.num_blocks
        proven += certificate.proven_blocks
    seconds = time.perf_counter() - begin
    yield {"case": "normal", "solver": "midpoint", "seconds": seconds, "blocks": blocks, "proven": proven}


def warm_start(pattern: Pattern, cases: list[Case]) -> Iterator[Row]:
    """A 1024 x 1024 layer in training, solved from the prices of 1, 10 and 40 optimizer steps before, and from none."""
    if pattern.m == 4:
        return  # closed forms need no prices
    for name in ("SGD", "AdamW"):
        snapshots = layer_in_training(name)
        before = tmask.solve(snapshots[0], pattern, "midpoint", warm_start=True)
        for steps in (1, 10, 40):
            weight = snapshots[steps]
            calls = {
                "cold": solving(weight, pattern, "midpoint"),
                "warm": solving(weight, pattern, "midpoint", warm_start=before),
            }
            case = f"{name}, {steps} steps"
            yield from (
                {"case": f"{case}, {row['solver']}", "side": 1024} | row | {"solver": "midpoint"}
                for row in measure(calls, 7)
            )


_FIRST_CALL = """
import time, numpy as np, tmask, numba
rng = np.random.default_rng(0)
weight = rng.standard_normal((64, 64), dtype=np.float32) if {normal} else rng.integers(0, 3, (64, 64)).astype("f4")
begin, cpu = time.perf_counter(), time.process_time()
tmask.solve(weight, "{pattern}", "midpoint", threads=1)
print(time.perf_counter() - begin, time.process_time() - cpu)
"""


def compiling(pattern: Pattern, cases: list[Case]) -> Iterator[Row]:
    """The first call of a pattern in a fresh process: with no kernel on disk, with what an earlier one has left there,
    and with no kernel on disk for weights that tie, which need more of them.

    As `solver_seconds`, the seconds of the processor: more than one thread is never at work, so the rest is waiting.
    """
    for repeat in range(5):
        # An own cache: this machine's may hold the kernels already.
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
            for what, cache, normal in (
                ("first call, compiling", folder, True),
                ("first call, cached", folder, True),
                ("first call, compiling, small integers", other, False),
            ):
                out = subprocess.run(
                    [sys.executable, "-c", _FIRST_CALL.format(pattern=pattern, normal=normal)],
                    env=os.environ | {"NUMBA_CACHE_DIR": cache},
                    capture_output=True,
                    text=True,
                    check=True,
                )
                wall, cpu = map(float, out.stdout.split())
                yield {"case": what, "solver": "midpoint", "repeat": repeat, "seconds": wall, "solver_seconds": cpu}


PARTS: dict[str, Callable[[Pattern, list[Case]], Iterator[Row]]] = {
    "ratios": ratios,
    "threads": threads,
    "dtypes": dtypes,
    "distributions": distributions,
    "curve": curve,
    "proofs": proofs,
    "warm_start": warm_start,
    "compiling": compiling,
}

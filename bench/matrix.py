"""`tmask.solve` as a user calls it, on whole matrices: ratios, threads, dtypes, a cost curve, proofs by the million.

    python -m bench.matrix [--weights FILE] [--parts ratios,curve,...]

Every row is one call, from the weight to the Solution, checks and proof included (heuristics without: their bound
would cost the exact optimum). Calls of a group run in turn, so that a slow moment of the machine hits all of them. Slow
solvers see fewer rows of the same matrix; compare microseconds a block.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numba
import numpy as np
import numpy.typing as npt
import typer

import tmask
from bench.cases import CASES, Case, weight_case
from bench.rows import RESULTS, commit, read_rows
from tmask.blocks.pattern import Pattern
from tmask.comparison.environment import environment
from tmask.errors import InvalidProblemError
from tmask.files.atomic import check_output
from tmask.files.csv_files import write_csv

Matrix = npt.NDArray[Any]
Row = dict[str, Any]

SIDE = 2048
_TURN = 0.05  # seconds
PATTERNS = tuple(Pattern.parse(text) for text in ("1:4", "2:4", "2:8", "4:8", "8:16", "16:32"))
# What `midpoint` is compared with, and how many rows of the matrix that sees; the slow ones not all.
_OTHERS = {"greedy-keep": SIDE, "ortools-flow": 256, "networkx-simplex": 32}


def matrix(case: Case, pattern: Pattern, side: int = SIDE) -> Matrix:
    """(side, side) float32 made of a case's blocks, which repeat if there are too few."""
    m = pattern.m
    count = (side // m) ** 2
    blocks = case.blocks(pattern, count)
    blocks = np.resize(blocks, (count, m, m)).reshape(side // m, side // m, m, m)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3)).reshape(side, side)


def measure(groups: dict[str, Callable[[], Row]], repeats: int) -> Iterator[Row]:
    """Run all in turn, after one unmeasured call each; the mean wall-clock seconds of a turn's calls in its row.

    A turn is one call, or as many as fill `_TURN`: what ran before has then left the caches.
    """
    numbers = {}
    for name, call in groups.items():
        call()
        begin = time.perf_counter()
        call()
        numbers[name] = max(1, round(_TURN / (time.perf_counter() - begin)))
    for repeat in range(repeats):
        for name, call in groups.items():
            begin = time.perf_counter()
            for _ in range(numbers[name]):
                row = call()
            seconds = (time.perf_counter() - begin) / numbers[name]
            yield {"solver": name, "repeat": repeat, "calls": numbers[name], "seconds": seconds} | row


def solving(weight: Any, pattern: Pattern, solver: str, certify: bool = True, **settings: Any) -> Callable[[], Row]:
    """A call of `tmask.solve` that makes a row."""

    def call() -> Row:
        solution = tmask.solve(weight, pattern, solver, certify=certify, **settings)
        return {
            "blocks": weight.shape[0] * weight.shape[1] // pattern.m**2,
            "solver_seconds": solution.seconds,
            "objective": solution.objective,
            "dual_bound": solution.dual_bound,
            "gap": solution.optimality_gap,
            "threads": settings.get("threads", 1),
        }

    return call


@numba.njit(nogil=True)
def _copy_signs(weight: Matrix, mask: Matrix) -> None:
    for i in range(weight.size):
        mask[i] = weight[i] > 0


def floor(weight: Matrix, pattern: Pattern) -> Callable[[], Row]:
    """Read the matrix and write a mask, with no thought: the least time that any solver can take."""

    def call() -> Row:
        _copy_signs(weight.ravel(), np.empty(weight.size, np.bool_))
        return {"blocks": weight.size // pattern.m**2, "threads": 1}

    return call


def ratios(pattern: Pattern, cases: list[Case]) -> Iterator[Row]:
    """`midpoint` against others, and against the floor."""
    for case in cases:
        weight = matrix(case, pattern)
        calls = {"midpoint": solving(weight, pattern, "midpoint"), "read and write": floor(weight, pattern)}
        for name, rows in _OTHERS.items():
            calls[name] = solving(weight[:rows], pattern, name, certify=False)
        yield from ({"case": case.name} | row for row in measure(calls, 7))


def threads(pattern: Pattern, cases: list[Case]) -> Iterator[Row]:
    """One thread and two."""
    weight = matrix(cases[0], pattern, 2 * SIDE)
    calls = {f"midpoint, {count}": solving(weight, pattern, "midpoint", threads=count) for count in (1, 2)}
    yield from ({"case": cases[0].name} | row | {"solver": "midpoint"} for row in measure(calls, 9))


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
        snapshots = _layer_in_training(name)
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


@functools.cache
def _layer_in_training(optimizer: str) -> dict[int, Matrix]:
    """Weights of the middle layer of a network on scikit-learn's digits, by steps after the 200th."""
    import torch
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)
    hidden = torch.nn.Linear(1024, 1024)
    layers = (torch.nn.Linear(64, 1024), torch.nn.ReLU(), hidden, torch.nn.ReLU(), torch.nn.Linear(1024, 10))
    network = torch.nn.Sequential(*layers)
    settings: dict[str, Any] = {"lr": 0.05, "momentum": 0.9} if optimizer == "SGD" else {"lr": 1e-3}
    descent = getattr(torch.optim, optimizer)(network.parameters(), **settings)
    snapshots = {}
    for step in range(241):
        if step - 200 in (0, 1, 10, 40):
            snapshots[step - 200] = hidden.weight.detach().numpy().copy()
        batch = torch.randint(len(images), (128,))
        loss = torch.nn.functional.cross_entropy(network(images[batch]), labels[batch])
        descent.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        descent.step()
    return snapshots


def compiling(pattern: Pattern, cases: list[Case]) -> Iterator[Row]:
    """The first call of a pattern in a fresh process: with an empty cache of kernels, and with a full one."""
    code = (
        "import time, numpy as np, tmask, numba; w = np.ones((64, 64), np.float32); t = time.perf_counter(); "
        f"tmask.solve(w, '{pattern}', 'midpoint'); print(time.perf_counter() - t)"
    )
    with tempfile.TemporaryDirectory() as folder:
        for what in ("first call, compiling", "first call, cached"):
            out = subprocess.run(
                [sys.executable, "-c", code],
                env=os.environ | {"NUMBA_CACHE_DIR": folder},
                capture_output=True,
                text=True,
                check=True,
            )
            yield {"case": what, "solver": "midpoint", "seconds": float(out.stdout)}


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
COLUMNS = (
    *("part", "case", "n", "m", "side", "dtype", "solver", "threads", "repeat", "calls", "seconds", "solver_seconds"),
    *("blocks", "objective", "dual_bound", "gap", "proven"),
)


def main(
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = RESULTS / "matrix.csv",
    weights: Annotated[Path | None, typer.Option(help="A weight file as one more case.")] = None,
    parts: Annotated[str, typer.Option(help="Names, separated by commas; the CSV's other parts stay.")] = "",
    patterns: Annotated[str, typer.Option(help="N:M, separated by commas; all if empty.")] = "",
) -> None:
    """Run the benchmark."""
    wanted = parts.split(",") if parts else list(PARTS)
    if unknown := [name for name in wanted if name not in PARTS]:
        raise InvalidProblemError(f"no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    chosen = [Pattern.parse(text) for text in patterns.split(",")] if patterns else list(PATTERNS)
    check_output(out, overwrite=True)
    cases = [next(case for case in CASES if case.name == "normal")]
    if weights is not None:
        cases.append(weight_case(weights))
    machine = {"commit": commit()} | environment()
    rows = [row for row in read_rows(out) if row["part"] not in wanted]
    for part in wanted:
        for pattern in chosen:
            print(f"{part} {pattern}", file=sys.stderr)
            made = (
                {"part": part, "n": pattern.n, "m": pattern.m, "side": SIDE, "dtype": "float32"} | row
                for row in PARTS[part](pattern, cases)
            )
            rows += [dict.fromkeys(COLUMNS, "") | row | machine for row in made]
        write_csv(out, rows, overwrite=True)
    print(f"{len(rows)} rows in {out}")


if __name__ == "__main__":
    typer.run(main)

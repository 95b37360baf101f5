"""What no CPU can check or measure: 2:4 kernels in training, on this machine's GPU. One CSV row per number.

    python -m bench.gpu_training [--scale small] [--out FILE]

Parts: `check`, errors of packed and of dense masked linear layers against float64, for forward and both gradients;
`linear`, seconds of a layer by sizes and tokens; `packing`, of a weight at each step and of a mask at each renewal;
`renewal`, of finding a mask; `block`, a training step of a GPT block by backend, and the renewals' share of it.
Times are medians by CUDA events, taken in turn. Without a GPU it measures nothing, writes nothing, and exits with 3.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.nn import functional

import tmask
from bench.gpt_block import GptBlock, training_step
from bench.run import RESULTS, commit
from tmask.cli.report import write_csv
from tmask.environment import environment
from tmask.errors import InvalidProblemError, TmaskError
from tmask.files.atomic import check_output
from tmask.nn import sparsify
from tmask.nn.doctor import examine
from tmask.nn.packed_linear import packed_linear
from tmask.nn.routes import ROUTES, Route
from tmask.nn.timing import measure_linear, time_in_turn
from tmask.nn.verification import random_mask, verify

NO_GPU = 3


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes: weights (out, in), tokens, and blocks (width, batch, sequence)."""

    shapes: tuple[tuple[int, int], ...]
    tokens: tuple[int, ...]
    blocks: tuple[tuple[int, int, int], ...]
    repeats: int = 11


SCALES = {
    "small": Scale(((1024, 1024), (4096, 4096)), (512, 4096, 16384), ((1024, 8, 1024),)),
    "full": Scale(
        ((1024, 1024), (2048, 2048), (4096, 4096), (4096, 16384), (16384, 4096), (8192, 8192)),
        (128, 512, 2048, 8192, 32768),
        ((1024, 16, 1024), (2048, 8, 2048), (4096, 4, 2048)),
    ),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One number, or why there is none. Quantities in seconds end so; errors and shares are fractions."""

    part: str
    route: str
    dtype: str
    out_features: int
    in_features: int
    tokens: int
    backend: str
    quantity: str
    value: float | None
    failure: str = ""


Case = tuple[Row, Callable[[], Iterator[Row]]]  # a row to put a failure in, and what yields the real ones


def cases(device: torch.device, scale: Scale, solver: str) -> Iterator[Case]:
    """Everything that is measured, in order; what a device or a shape rules out is a row as well."""
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
    for width, batch, length in scale.blocks:
        base = Row("block", "", "bfloat16", width, width, batch * length, "", "", None)
        yield base, lambda b=base, s=(batch, length): block(b, s, device, solver, scale.repeats)  # type: ignore[misc]


def _raising(problem: str) -> Callable[[], Iterator[Row]]:
    def run() -> Iterator[Row]:
        raise InvalidProblemError(problem)

    return run


def check(base: Row, route: Route, dtype: torch.dtype, device: torch.device) -> Iterator[Row]:
    """Largest errors, relative to the products' size, of the packed and of the dense masked layer."""
    shape = base.out_features, base.in_features
    verify(route, shape, dtype, device)
    mask = random_mask(*shape, device)
    weight = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
    x = torch.randn(base.tokens, shape[1], device=device, dtype=dtype, requires_grad=True)
    upstream = torch.randn(base.tokens, shape[0], device=device, dtype=dtype)
    packed, packed_t = route.pack(weight.detach(), route.plan(mask, dtype))
    masked = torch.where(mask, weight, 0)
    results = {
        route.name: packed_linear(x, weight, None, packed, packed_t, mask, route.name),
        "masked": functional.linear(x, masked),
    }
    tokens, wide, grad = x.detach().double(), masked.detach().double(), upstream.double()
    exact = {
        "forward_error": (tokens @ wide.t(), tokens.abs() @ wide.abs().t()),
        "input_gradient_error": (grad @ wide, grad.abs() @ wide.abs()),
        "weight_gradient_error": (torch.where(mask, grad.t() @ tokens, 0), grad.abs().t() @ tokens.abs()),
    }
    for backend, result in results.items():
        ours = (result.detach(), *torch.autograd.grad(result, (x, weight), upstream))
        for (quantity, (expected, size)), value in zip(exact.items(), ours, strict=True):
            error = float(((value.double() - expected).abs() / size).max())
            yield dataclasses.replace(base, backend=backend, quantity=quantity, value=error)


def linear(base: Row, route: Route, dtype: torch.dtype, device: torch.device, repeats: int) -> Iterator[Row]:
    """Seconds of one layer, in parts."""
    shape = base.out_features, base.in_features
    verify(route, shape, dtype, device)  # the time of a wrong product says nothing
    timing = measure_linear(route, shape, dtype, device, base.tokens, repeats)
    for name, value in asdict(timing).items():
        if name != "tokens":
            yield dataclasses.replace(base, quantity=f"{name}_seconds", value=value)


def packing(base: Row, route: Route, dtype: torch.dtype, device: torch.device, repeats: int) -> Iterator[Row]:
    """Seconds of packing both directions, once a step, and of the plan, once a mask."""
    verify(route, (base.out_features, base.in_features), dtype, device)
    mask = random_mask(base.out_features, base.in_features, device)
    weight = torch.randn(mask.shape, device=device, dtype=dtype)
    plan = route.plan(mask, dtype)
    calls = {"pack_seconds": lambda: route.pack(weight, plan), "plan_seconds": lambda: route.plan(mask, dtype)}
    for quantity, value in time_in_turn(calls, device, repeats).items():
        yield dataclasses.replace(base, quantity=quantity, value=value)


def renewal(base: Row, device: torch.device, repeats: int) -> Iterator[Row]:
    """Seconds of finding a mask for a weight on the device, transfers included."""
    weight = torch.randn(base.out_features, base.in_features, device=device, dtype=torch.bfloat16)
    calls = {
        "certified_seconds": lambda: tmask.solve(weight, "2:4", base.backend),
        "uncertified_seconds": lambda: tmask.solve(weight, "2:4", base.backend, certify=False),
    }
    for quantity, value in time_in_turn(calls, device, min(repeats, 3)).items():
        yield dataclasses.replace(base, quantity=quantity, value=value)


def block(base: Row, size: tuple[int, int], device: torch.device, solver: str, repeats: int) -> Iterator[Row]:
    """Seconds of a training step of a GPT block, dense and by backend, and the share of renewing its masks."""
    x = torch.randn(*size, base.in_features, device=device, dtype=torch.bfloat16)
    steps: dict[str, Callable[[], Any]] = {}
    seconds_of_renewal: dict[str, float] = {}
    for backend in ("dense", "masked", "semi_structured"):
        torch.manual_seed(0)
        model = GptBlock(base.in_features).to(device, torch.bfloat16)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        if backend != "dense":
            try:
                sparsifier = sparsify(model, "2:4", solver=solver, optimizer=optimizer, backend=backend)
            except TmaskError as error:
                yield dataclasses.replace(base, backend=backend, failure=str(error))
                continue
            seconds_of_renewal[backend] = sparsifier.metrics()["seconds"]
        steps[backend] = training_step(model, optimizer, x)
    for backend, seconds in time_in_turn(steps, device, repeats).items():
        row = dataclasses.replace(base, backend=backend)
        yield dataclasses.replace(row, quantity="step_seconds", value=seconds)
        if (once := seconds_of_renewal.get(backend)) is not None:
            yield dataclasses.replace(row, quantity="renewal_seconds", value=once)
            for every in (1, 40):
                share = once / (once + every * seconds)
                yield dataclasses.replace(row, quantity=f"renewal_share_every_{every}", value=share)


def measure(device: torch.device, scale: Scale, solver: str, out: Path) -> list[dict[str, Any]]:
    """Run every case; the CSV is written anew, whole, after each, so that an interrupt loses one."""
    machine = {
        f"gpu_{name}": value for name, value in asdict(examine(device)).items() if name not in ("problem", "torch")
    }
    machine |= {"commit": commit(), **environment()}
    rows: list[dict[str, Any]] = []
    for base, run in cases(device, scale, solver):
        try:
            found = list(run())
        except (TmaskError, RuntimeError) as error:  # memory that does not suffice is one too
            found = [dataclasses.replace(base, failure=" ".join(str(error).split()))]
        for row in found:
            print(" ".join(str(value) for value in asdict(row).values() if value not in ("", 0)), flush=True)
        rows += [asdict(row) | machine for row in found]
        write_csv(out, rows, overwrite=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return rows


def main(
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = RESULTS / "gpu_training.csv",
    scale: Annotated[str, typer.Option(help="small or full.")] = "full",
    solver: Annotated[str, typer.Option(help="That finds the masks.")] = "auto",
) -> None:
    """Check and measure the 2:4 kernels on this machine's GPU."""
    if scale not in SCALES:
        raise InvalidProblemError(f"no scale {scale!r}; there are: {', '.join(SCALES)}")
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured, nothing was written", file=sys.stderr)
        raise typer.Exit(NO_GPU)
    check_output(out, overwrite=True)
    rows = measure(torch.device("cuda", torch.cuda.current_device()), SCALES[scale], solver, out)
    print(f"{len(rows)} rows in {out}")


if __name__ == "__main__":
    typer.run(main)

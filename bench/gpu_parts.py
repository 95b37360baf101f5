"""The parts of `bench.gpu_training`: each yields rows of numbers for one size on one device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional

import tmask
from bench.gpt_block import GptBlock, gradients, training_step
from tmask.blocks.pattern import Pattern
from tmask.errors import TmaskError
from tmask.nn import GraphedStep, sparsify
from tmask.nn.layers.layer import SparseLayer
from tmask.nn.mask.gradient import Gradient
from tmask.nn.packing.graph_timing import measure_graphs
from tmask.nn.packing.operators import packed_linear
from tmask.nn.packing.routes import Route
from tmask.nn.packing.timing import measure_linear, time_in_turn
from tmask.nn.packing.trials import random_mask
from tmask.nn.packing.verification import verify
from tmask.nn.training.schedules import Schedule


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
            # Against the sum of sizes, not the result: terms that cancel would make any error look large.
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
    try:
        graphs = measure_graphs(route, shape, dtype, device, base.tokens, repeats)
    except (TmaskError, RuntimeError) as error:  # the eager times stand without it
        yield _without_graph(base, error)
        return
    for name, value in asdict(graphs).items():
        if name != "tokens":
            yield dataclasses.replace(base, quantity=f"graph_{name}_seconds", value=value)


def packing(base: Row, route: Route, dtype: torch.dtype, device: torch.device, repeats: int) -> Iterator[Row]:
    """Seconds of packing both directions, once a step, and of the plan, once a mask."""
    verify(route, (base.out_features, base.in_features), dtype, device)
    mask = random_mask(base.out_features, base.in_features, device)
    weight = torch.randn(mask.shape, device=device, dtype=dtype)
    plan = route.plan(mask, dtype)
    packed = route.pack(weight, plan)
    calls = {
        "pack_seconds": lambda: route.repack(packed, weight, plan),
        "plan_seconds": lambda: route.plan(mask, dtype),
    }
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
    graphed: dict[str, Callable[[], Any]] = {}
    updates: dict[str, dict[str, Callable[[], Any]]] = {}
    for backend in ("dense", "masked", "semi_structured"):
        model, optimizer = block_and_optimizer(base, device)
        if backend != "dense":
            try:
                asked = WhenAsked()
                sparsify(model, "2:4", solver=solver, schedule=asked, optimizer=optimizer, backend=backend)
            except TmaskError as error:
                yield dataclasses.replace(base, backend=backend, failure=str(error))
                continue
            updates[backend] = {"plain": optimizer.step, "renewal": partial(_renew, asked, optimizer)}
        steps[backend] = training_step(model, optimizer, x)
        graphed[backend] = _graphed_step(model, optimizer, x)
    for backend, seconds in time_in_turn(steps, device, repeats).items():
        row = dataclasses.replace(base, backend=backend)
        yield dataclasses.replace(row, quantity="step_seconds", value=seconds)
        if backend in updates:
            # What a renewal adds: its own seconds would hold what the device still had to do before it.
            times = time_in_turn(updates[backend], device, repeats)
            once = times["renewal"] - times["plain"]
            yield dataclasses.replace(row, quantity="renewal_seconds", value=once)
            for every in (1, 40):
                share = once / (once + every * seconds)
                yield dataclasses.replace(row, quantity=f"renewal_share_every_{every}", value=share)
    try:
        seconds_in_graphs = time_in_turn(graphed, device, repeats)
    except (TmaskError, RuntimeError) as error:
        yield _without_graph(base, error)
        return
    for backend, seconds in seconds_in_graphs.items():
        yield dataclasses.replace(base, backend=backend, quantity="graph_step_seconds", value=seconds)


def auto(base: Row, size: tuple[int, int], device: torch.device, solver: str, repeats: int) -> Iterator[Row]:
    """A step of a GPT block in a graph with what "auto" takes for that, over a dense one; both in turn."""
    x = torch.randn(*size, base.in_features, device=device, dtype=torch.bfloat16)
    graphed: dict[str, Callable[[], Any]] = {}
    taken = ""
    for backend in ("dense", "auto"):
        model, optimizer = block_and_optimizer(base, device)
        if backend == "auto":
            layers = sparsify(
                model, "2:4", solver=solver, optimizer=optimizer, tokens=x[..., 0].numel(), cuda_graphs=True
            ).layers
            taken = packed_of(layers)
        graphed[backend] = _graphed_step(model, optimizer, x)
    seconds = time_in_turn(graphed, device, repeats)
    ratio = seconds["auto"] / seconds["dense"]
    yield dataclasses.replace(base, route=taken, backend="auto", quantity="graph_step_over_dense", value=ratio)


def packed_of(layers: Sequence[SparseLayer]) -> str:
    """How many of the layers "auto" has packed, in words."""
    return f"{sum(layer.backend == 'semi_structured' for layer in layers)} of {len(layers)} packed"


def block_and_optimizer(base: Row, device: torch.device) -> tuple[GptBlock, torch.optim.Optimizer]:
    """The same weights for every backend, hence the same masks."""
    torch.manual_seed(0)
    model = GptBlock(base.in_features).to(device, torch.bfloat16)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)


@dataclass(frozen=True)
class WhenAsked(Schedule):
    """Masks that are renewed whenever somebody wants it, with the gradient of schedules that renew."""

    gradient: Gradient = "straight-through"
    wanted: set[str] = dataclasses.field(default_factory=set)

    def renews_at(self, step: int) -> bool:
        return step == 0 or bool(self.wanted)

    def pattern_at(self, step: int, target: Pattern) -> Pattern | None:
        return target


def _renew(asked: WhenAsked, optimizer: torch.optim.Optimizer) -> None:
    """An update of the weights with a renewal after it; there are no gradients, as between steps."""
    asked.wanted.add("now")
    optimizer.step()
    asked.wanted.clear()


def _without_graph(base: Row, error: Exception) -> Row:
    return dataclasses.replace(base, backend="graph", failure=" ".join(str(error).split()))


def _graphed_step(model: GptBlock, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> Callable[[], None]:
    """Forward and backward as a graph, then the optimizer with its hooks, which pack."""
    passes = GraphedStep(model, gradients(model, x))

    def step() -> None:
        passes()
        optimizer.step()

    return step

"""What this machine can accelerate, layer by layer: eligible or why not, and what it was measured to gain."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from tmask.errors import InvalidProblemError, KernelError
from tmask.nn.packing.graph_timing import GraphTiming, measure_graphs
from tmask.nn.packing.routes import ROUTES, Route, find_route
from tmask.nn.packing.support import misfit
from tmask.nn.packing.timing import REPEATS, Timing, measure_linear
from tmask.nn.packing.verification import verify

DTYPES = ("bfloat16", "float16", "float32")
# Where the break-even is looked for: powers of two, from a short sequence to a large batch.
_COUNTS = tuple(2**power for power in range(7, 17))
_QUICK = 5  # repeats of each, since a crossing is coarser than the times that are reported

Measure = Callable[[Route, tuple[int, int], torch.dtype, torch.device, int, int], Timing]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One layer.

    Args:
        route: that multiplies it here, or "".
        reason: why nothing does, or why nothing could be measured, or "".
        eligible_for: names of the routes that take this shape and dtype, on their hardware.
        timings: by count of tokens, as asked for; `graphs`, whole steps in a CUDA graph, where one can be captured.
        break_even: tokens of the first power of two at which a whole step, packing included, is no slower than the
            dense one; None if there is none up to 65536, or nothing was measured.
    """

    name: str
    shape: tuple[int, ...]
    route: str = ""
    reason: str = ""
    eligible_for: tuple[str, ...] = ()
    timings: tuple[Timing, ...] = ()
    graphs: tuple[GraphTiming, ...] = ()
    break_even: int | None = None

    @property
    def verdict(self) -> str:
        """In words."""
        if self.reason:
            return self.reason
        if self.break_even is None:
            return f"not worth it here: slower than dense up to {_COUNTS[-1]} tokens"
        return f"pays from {self.break_even} tokens on"


def diagnose(
    layers: Iterable[tuple[str, tuple[int, ...]]],
    dtype: str,
    device: torch.device,
    tokens: Sequence[int],
    *,
    measure: Measure = measure_linear,
) -> Iterator[Diagnosis]:
    """Judge each layer; what is eligible here is verified and measured, each shape once.

    Names and shapes do not tell everything: a matrix of another module than `nn.Linear` is judged as if it were of one,
    but for the projections of torch's MultiheadAttention, which go by their names.

    Args:
        layers: names and weight shapes, (out, in).
        dtype: that the layers multiply in.
        tokens: counts to report times for, each at least 1.
        measure: times one layer; another one in tests.
    Raises:
        InvalidProblemError: an unknown dtype, or a count of tokens that is none.
    """
    if dtype not in DTYPES:
        raise InvalidProblemError(f"dtype {dtype!r}: give one of {', '.join(DTYPES)}")
    if wrong := [count for count in tokens if count < 1]:
        raise InvalidProblemError(f"tokens: {wrong[0]} is no count of tokens; give 1 or more")
    # A generator of its own: in this one, bad arguments would be refused only when the first row is asked for.
    return _diagnose(layers, getattr(torch, dtype), device, tokens, measure)


def _diagnose(
    layers: Iterable[tuple[str, tuple[int, ...]]],
    dtype: torch.dtype,
    device: torch.device,
    tokens: Sequence[int],
    measure: Measure,
) -> Iterator[Diagnosis]:
    route, problem = find_route(device)
    measured: dict[tuple[int, ...], Diagnosis] = {}
    named = list(layers)
    attention = _of_attention(name for name, _ in named)
    for name, shape in named:
        if name in attention:
            yield Diagnosis(name, shape, reason="MultiheadAttention reads its weights past any packed product")
            continue
        elsewhere = tuple(other.name for other in ROUTES.values() if not misfit(other, shape, dtype))
        if route is None:
            # Of a shape that fits nowhere, that is the reason, and not this machine.
            reason = problem if elsewhere else _nowhere(shape, dtype)
            yield Diagnosis(name, shape, reason=reason, eligible_for=elsewhere)
            continue
        if reason := misfit(route, shape, dtype):
            yield Diagnosis(name, shape, reason=reason, eligible_for=elsewhere)
            continue
        if shape not in measured:  # a transformer repeats a handful of shapes, and each takes seconds
            measured[shape] = _measured(route, (shape[0], shape[1]), dtype, device, tokens, measure)
        result = measured[shape]
        yield Diagnosis(
            name, shape, route.name, result.reason, elsewhere, result.timings, result.graphs, result.break_even
        )


def _of_attention(names: Iterable[str]) -> set[str]:
    """Those of MultiheadAttention's projections, by its own name for the packed first one."""
    known = set(names)
    # Shapes and names are all there is to go by, and no other module of torch has this name.
    first = {name for name in known if name.endswith("in_proj_weight")}
    return first | {name.removesuffix("in_proj_weight") + "out_proj.weight" for name in first} & known


def _nowhere(shape: tuple[int, ...], dtype: torch.dtype) -> str:
    """Why no route takes it, by the least demanding one."""
    return misfit(min(ROUTES.values(), key=lambda route: route.multiple), shape, dtype)


def _measured(
    route: Route,
    shape: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    tokens: Sequence[int],
    measure: Measure,
) -> Diagnosis:
    """The diagnosis of a shape, without a layer's name."""
    timings: list[Timing] = []
    graphs: list[GraphTiming] = []
    try:
        # First, since the time of a wrong product says nothing.
        verify(route, shape, dtype, device)
        for count in tokens:
            timings.append(measure(route, shape, dtype, device, count, REPEATS))
            # Eager times stand without it.
            with contextlib.suppress(KernelError):
                graphs.append(measure_graphs(route, shape, dtype, device, count, REPEATS))
        break_even = next(
            (count for count in _COUNTS if measure(route, shape, dtype, device, count, _QUICK).speed_up >= 1), None
        )
    except RuntimeError as error:  # wrong products, or whatever a private operator raises
        full = isinstance(error, torch.cuda.OutOfMemoryError)
        reason = "no memory to measure it; give fewer --tokens" if full else str(error)
        return Diagnosis("", shape, reason=reason, timings=tuple(timings), graphs=tuple(graphs))
    return Diagnosis("", shape, timings=tuple(timings), graphs=tuple(graphs), break_even=break_even)

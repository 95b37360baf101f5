"""How long a linear layer takes on a packed weight and on a dense one: forward, backward, packing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from tmask.nn.mask.masking import apply_mask
from tmask.nn.packing.operators import packed_linear
from tmask.nn.packing.routes import Route
from tmask.nn.packing.trials import random_mask

REPEATS = 11  # odd, so that the median is one of them
_WARM_UP = 3  # first calls load kernels and choose algorithms
# Between two events on a GPU: as in training, the next kernels are launched while one runs.
_CALLS = 10


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, medians, of one linear layer and one count of tokens; see `measure_linear`.

    Args:
        dense_forward, dense_backward: with the dense weight; backward is the gradients of input and weight.
        sparse_forward, sparse_backward: with the packed weight.
        mask: of applying a mask to the dense weight, which backend "masked" does in each forward pass.
        pack: of packing both directions, once for each step of the optimizer.
    """

    tokens: int
    dense_forward: float
    dense_backward: float
    sparse_forward: float
    sparse_backward: float
    mask: float
    pack: float

    @property
    def dense(self) -> float:
        """Forward and backward without a mask."""
        return self.dense_forward + self.dense_backward

    @property
    def masked(self) -> float:
        """Forward and backward of backend "masked"."""
        return self.dense + self.mask

    @property
    def sparse(self) -> float:
        """Forward, backward and packing of backend "semi_structured"."""
        return self.sparse_forward + self.sparse_backward + self.pack

    @property
    def speed_up(self) -> float:
        """Of a whole step, packing included, over the dense layer; below 1 it is a slow-down."""
        return self.dense / self.sparse


def measure_linear(
    route: Route,
    shape: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    tokens: int,
    repeats: int = REPEATS,
) -> Timing:
    """Time a bias-free linear layer (out, in) on random numbers, everything in turn.

    Cost: seconds at most on a GPU; memory of the layer, its gradients and 4 * tokens * (in + out) numbers.
    """
    weight = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
    mask = random_mask(*shape, device)
    x = torch.randn(tokens, shape[1], device=device, dtype=dtype, requires_grad=True)
    gradient = torch.randn(tokens, shape[0], device=device, dtype=dtype)
    plan = route.plan(mask, dtype)
    detached = weight.detach()
    forward, backward = route.pack(detached, plan)
    spare = route.pack(detached, plan)  # to be written to, which autograd forbids for what a backward pass reads

    def dense() -> torch.Tensor:
        return functional.linear(x, weight)

    def sparse() -> torch.Tensor:
        return packed_linear(x, weight, None, forward, backward, None, route.name)

    def back(result: torch.Tensor) -> Callable[[], Any]:
        # One forward pass serves every repeat, so that backward is timed alone.
        return lambda: torch.autograd.grad(result, (x, weight), gradient, retain_graph=True)

    # The gradient of the input is asked for too: it is the product with the packed transpose.
    seconds = time_in_turn(
        {
            "dense_forward": dense,
            "sparse_forward": sparse,
            "dense_backward": back(dense()),
            "sparse_backward": back(sparse()),
            "mask": lambda: apply_mask(detached, mask),
            "pack": lambda: route.repack(spare, detached, plan),
        },
        device,
        repeats,
    )
    return Timing(tokens, **seconds)


def time_in_turn(calls: dict[str, Callable[[], Any]], device: torch.device, repeats: int = REPEATS) -> dict[str, float]:
    """Median seconds of each call, as `samples_in_turn` takes them."""
    return {name: statistics.median(values) for name, values in samples_in_turn(calls, device, repeats).items()}


def samples_in_turn(
    calls: dict[str, Callable[[], Any]], device: torch.device, repeats: int = REPEATS
) -> dict[str, list[float]]:
    """Seconds of each call in each round, warmed up; the calls take turns, so that a slow moment hits all of them."""
    clock = _cuda_seconds if device.type == "cuda" else _cpu_seconds
    for call in calls.values():
        for _ in range(_WARM_UP):
            call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            samples[name].append(clock(call, device))
    return samples


def _cuda_seconds(call: Callable[[], Any], device: torch.device) -> float:
    with torch.cuda.device(device):
        start, end = _event(), _event()
        torch.cuda.synchronize()
        start.record()
        for _ in range(_CALLS):
            call()
        end.record()
        end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / _CALLS


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _cpu_seconds(call: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start

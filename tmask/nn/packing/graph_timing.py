"""How long a step of a linear layer takes whose passes are a CUDA graph: dense, under a mask, and packed.

Outside of one, a sparse product sets up descriptors at each call in some versions of torch; within, kernels are all
there is, and what pays is another matter. Packing stays outside: it follows the optimizer's step, which no graph holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tmask.errors import KernelError
from tmask.nn.mask.masking import apply_mask
from tmask.nn.packing.operators import packed_linear
from tmask.nn.packing.routes import Route
from tmask.nn.packing.timing import REPEATS, time_in_turn
from tmask.nn.packing.trials import random_mask

_WARM_UP = 3  # before a capture: first calls allocate, compile and choose algorithms


@dataclass(frozen=True, slots=True)
class GraphTiming:
    """Seconds, medians, of forward and backward in a graph.

    `masked` applies the mask as well; `sparse` has the packing of the weight added, launched as after each step.
    """

    tokens: int
    dense: float
    masked: float
    sparse: float


def measure_graphs(
    route: Route,
    shape: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    tokens: int,
    repeats: int = REPEATS,
) -> GraphTiming:
    """Time the steps of a bias-free layer (out, in), each captured in a graph, in turn; on a CPU, as they are.

    Raises:
        KernelError: a capture fails.
    """
    weight = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
    mask = random_mask(*shape, device)
    x = torch.randn(tokens, shape[1], device=device, dtype=dtype, requires_grad=True)
    gradient = torch.randn(tokens, shape[0], device=device, dtype=dtype)
    plan = route.plan(mask, dtype)
    detached = weight.detach()
    packed = route.pack(detached, plan)

    def back(result: Tensor) -> Any:
        return torch.autograd.grad(result, (x, weight), gradient)

    steps: dict[str, Callable[[], Any]] = {
        "dense": lambda: back(functional.linear(x, weight)),
        "masked": lambda: back(functional.linear(x, apply_mask(weight, mask))),
        "sparse": lambda: back(packed_linear(x, weight, None, *packed, None, route.name)),
    }
    calls = {name: captured(step, device) for name, step in steps.items()}
    # What is packed is written to while a graph reads it nowhere: both are on one stream.
    calls["pack"] = lambda: route.repack(packed, detached, plan)
    seconds = time_in_turn(calls, device, repeats)
    return GraphTiming(tokens, seconds["dense"], seconds["masked"], seconds["sparse"] + seconds["pack"])


def captured(step: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """The step as a graph to be replayed; on a CPU, which has none, the step itself.

    Raises:
        KernelError: it cannot be captured.
    """
    if device.type != "cuda":
        return step
    try:
        with torch.cuda.device(device):
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP):
                    step()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # Other threads go on, such as the one that pins memory for a DataLoader; by default that is an error.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                step()
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise KernelError(f"a step cannot be captured in a CUDA graph on {device}: {error}") from error
    return graph.replay

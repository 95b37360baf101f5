"""Training steps of a compiled GPT block, by backend and mode of torch.compile, each over a dense one in the same mode.

The last part of `bench.gpu_training`, and one that is asked for: most of its time goes into compiling. What torch's
cache on disk knows, such as the dense step of an earlier pair, is compiled in a fraction of a second.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from bench.gpt_block import training_step
from bench.gpu_parts import Row, block_and_optimizer, packed_of
from tmask.errors import KernelError
from tmask.nn import sparsify
from tmask.nn.packing.timing import samples_in_turn

# By what the names of their quantities begin with. The most telling first, as for backends.
MODES = {"reduce_overhead": "reduce-overhead", "compiled": "default"}
BACKENDS = ("auto", "semi_structured", "masked")

_LONGEST = 300  # letters of a failure: the compiler's hold whole programs

Case = tuple[Row, Callable[[], Iterator[Row]]]  # a row to put a failure in, and what yields the real ones


def compiled_cases(
    device: torch.device,
    blocks: tuple[tuple[int, int, int], ...],
    prefixes: tuple[str, ...],
    solver: str,
    repeats: int,
) -> Iterator[Case]:
    """A case for each mode, backend and block (width, batch, sequence)."""
    for prefix in prefixes:
        for backend in BACKENDS:
            for width, batch, length in blocks:
                # The number that is missing should all fail.
                quantity = f"{prefix}_step_over_dense"
                base = Row("compiled", "", "bfloat16", width, width, batch * length, backend, quantity, None)
                yield base, partial(compiled, base, prefix, (batch, length), device, solver, repeats)


def compiled(
    base: Row, prefix: str, size: tuple[int, int], device: torch.device, solver: str, repeats: int
) -> Iterator[Row]:
    """Seconds of one backend's step and of a dense one, in turn; their ratio round by round; and of compiling both.

    Each pair is compiled for itself, so that its rows come as soon as they can, and nothing of an earlier one (code,
    counts of compilations, memory of graphs) is left in it.
    """
    forget_compiled()
    try:
        yield from _pair(base, prefix, size, device, solver, repeats)
    except Exception as error:  # whatever a compiler may raise; the other settings go on
        words = " ".join(str(error).split()) or type(error).__name__
        yield dataclasses.replace(base, failure=words[:_LONGEST])
    finally:
        forget_compiled()


def forget_compiled() -> None:
    """Drop compiled code with its graphs, and what torch has counted."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def _pair(
    base: Row, prefix: str, size: tuple[int, int], device: torch.device, solver: str, repeats: int
) -> Iterator[Row]:
    mode = MODES[prefix]
    dense, own = block_and_optimizer(base, device), block_and_optimizer(base, device)
    # Before anything is compiled: what a device refuses costs no time.
    layers = sparsify(
        own[0],
        "2:4",
        solver=solver,
        optimizer=own[1],
        backend=base.backend,
        tokens=base.tokens,
        cuda_graphs=mode == "reduce-overhead",
    ).layers
    row = dataclasses.replace(base, route=packed_of(layers) if base.backend == "auto" else "")
    x = torch.randn(*size, base.in_features, device=device, dtype=torch.bfloat16)
    steps: dict[str, Callable[[], None]] = {}
    for name, (model, optimizer) in {"dense_": dense, "": own}.items():
        # A break in the graph is a failure here, not a slower number.
        call: Any = torch.compile(model, mode=mode, fullgraph=True)
        steps[name] = _marked(training_step(call, optimizer, x))
        seconds = _seconds_of(steps[name], device)
        yield dataclasses.replace(row, quantity=f"{prefix}_{name}compile_seconds", value=seconds)
    for quantity, value in _numbers(samples_in_turn(steps, device, repeats)).items():
        yield dataclasses.replace(row, quantity=f"{prefix}_{quantity}", value=value)
    _check_graphs(mode, device)


def _numbers(samples: dict[str, list[float]]) -> dict[str, float]:
    """The step over the dense one of the same round, its median and spread; and the median seconds of each."""
    ratios = [own / dense for own, dense in zip(samples[""], samples["dense_"], strict=True)]
    return {
        "step_over_dense": statistics.median(ratios),
        "step_over_dense_least": min(ratios),
        "step_over_dense_most": max(ratios),
        **{f"{name}step_seconds": statistics.median(values) for name, values in samples.items()},
    }


def _check_graphs(mode: str, device: torch.device) -> None:
    """Return if torch has made the graphs that the mode is there for; without them it goes on, with a warning at most.

    A user has such times too, but they do not say what graphs give.

    Raises:
        KernelError: it left some out.
    """
    skipped = torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]
    if skipped and device.type == "cuda":
        raise KernelError(f"torch left out {skipped} CUDA graphs in mode {mode}")


def _marked(step: Callable[[], None]) -> Callable[[], None]:
    """The step, with word to torch that it may reuse the memory of the last one's results.

    Optimizer and hooks are in `step` but not compiled: they write the weights, packed values and masks that graphs
    read, where these lie.
    """

    def marked() -> None:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        step()

    return marked


def _seconds_of(call: Callable[[], None], device: torch.device) -> float:
    """Wall seconds: a compiler works on the CPU."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start

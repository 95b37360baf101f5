"""Which product a masked layer runs on, and the calls that keep a faster one up to date.

"masked" multiplies with the dense masked weight and runs anywhere. "semi_structured" multiplies with packed 2:4 copies
of the weight, in both directions, on a GPU (`tmask.nn.packing.attaching`).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils.parametrize import type_before_parametrizations

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn.packing import attaching, payoff
from tmask.nn.packing.support import supported

Backend = Literal["auto", "masked", "semi_structured"]
AUTO = "auto"
MASKED = "masked"
SEMI_STRUCTURED = "semi_structured"
TOKENS = payoff.TOKENS


def check_backend(requested: str) -> None:
    """Return if the text names a backend; raise InvalidProblemError if not."""
    if requested not in get_args(Backend):
        raise InvalidProblemError(f"backend must be one of {', '.join(get_args(Backend))}; got {requested!r}")


def misuse(module: nn.Module, tensor: str) -> str:
    """Why this layer's own forward is no plain product that another could replace, or ""."""
    # A module with a mask has a class of torch's making; whose forward it runs, the one before tells.
    kind = type_before_parametrizations(module)
    # A subclass of nn.Linear, which the next tests would take.
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return "MultiheadAttention reads the weight of its out_proj without calling it"
    if not isinstance(module, nn.Linear):
        return f"semi_structured takes nn.Linear alone, not {tensor} of {kind.__name__}"
    if kind.forward is not nn.Linear.forward:  # type: ignore[attr-defined]
        return f"{kind.__name__} has a forward of its own"
    # Ours replaces whatever is there, and would drop it without a word.
    if "forward" in vars(module) and not attaching.attached(module):
        return f"this {kind.__name__} was given a forward of its own, as hooks of accelerate do"
    return ""


def unfit(module: nn.Module, tensor: str, weight: Tensor, pattern: Pattern) -> str:
    """Why a module's weight cannot be multiplied packed on the device that it is on now, or ""."""
    if problem := misuse(module, tensor):
        return problem
    return supported(tuple(weight.shape), _product_dtype(weight), weight.device, pattern)[1]


def _product_dtype(weight: Tensor) -> torch.dtype:
    # Autocast is entered in the training loop, later than this choice, which therefore assumes it.
    return torch.bfloat16 if weight.dtype == torch.float32 else weight.dtype


def choose_backend(
    module: nn.Module,
    tensor: str,
    weight: Tensor,
    pattern: Pattern,
    requested: str,
    tokens: int = payoff.TOKENS,
    graphs: bool = False,
) -> tuple[str, str]:
    """The backend for a module's weight, and why; "" where it is what was asked for.

    "auto" takes semi_structured where device, dtype, shape and pattern allow it and it was measured to pay. A float32
    weight is judged by what autocast makes of it; without autocast it is multiplied masked. What counts is the device
    that the weight is on now.

    Args:
        tokens: in a batch of this layer, for which "auto" measures.
        graphs: whether it measures within a CUDA graph.
    Raises:
        InvalidProblemError: semi_structured was asked for, and cannot run this layer; the text says why.
    """
    if requested == MASKED:
        return MASKED, ""
    problem = unfit(module, tensor, weight, pattern)
    if requested == SEMI_STRUCTURED:
        if problem:
            move = "; move the model to its GPU before sparsify" if weight.device.type == "cpu" else ""
            raise InvalidProblemError(
                f'backend "semi_structured" cannot run it: {problem}; exclude it, or use "auto"{move}'
            )
        return SEMI_STRUCTURED, ""
    if problem:
        return MASKED, problem
    pays, measured = payoff.pays(tuple(weight.shape), _product_dtype(weight), weight.device, tokens, graphs)
    return (SEMI_STRUCTURED if pays else MASKED), measured


def update(module: nn.Module, backend: str, *, complete: bool) -> None:
    """Bring packed weights up to date with weight and mask: after every optimizer step, not per micro-batch.

    Args:
        complete: whether the mask in force has the layer's final pattern; before, and in a dense phase, the layer
            multiplies with the dense masked weight.
    """
    if backend == SEMI_STRUCTURED:
        if complete:
            attaching.attach(module)
        else:
            attaching.detach(module)


def release(module: nn.Module) -> None:
    """Give the module its own forward back, where packed weights have replaced it."""
    attaching.detach(module)

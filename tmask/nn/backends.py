"""Which product a masked layer runs on, and the calls that keep a faster one up to date.

"masked" multiplies with the dense masked weight and runs anywhere. "semi_structured" keeps packed 2:4 copies of the
weight for both directions, on a GPU (`tmask.nn.semi_structured`).
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils.parametrize import type_before_parametrizations

from tmask.errors import InvalidProblemError
from tmask.pattern import Pattern

Backend = Literal["auto", "masked", "semi_structured"]
_MODULE = "tmask.nn.semi_structured"
MASKED = "masked"
SEMI_STRUCTURED = "semi_structured"


def check_backend(requested: str) -> None:
    """Return if the text names a backend; raise InvalidProblemError if not."""
    if requested not in get_args(Backend):
        raise InvalidProblemError(f"backend must be one of {', '.join(get_args(Backend))}; got {requested!r}")


def choose_backend(module: nn.Module, tensor: str, weight: Tensor, pattern: Pattern, requested: str) -> tuple[str, str]:
    """The backend for a module's weight, and why it is not a faster one ("" where nothing is to be said).

    "auto" takes semi_structured where device, dtype, shape and pattern allow it and it was measured to pay.

    Raises:
        InvalidProblemError: semi_structured was asked for, and cannot run this layer; the text says why.
    """
    if requested == MASKED:
        return MASKED, ""
    reason = _obstacle(module, tensor, weight, pattern)
    if requested == SEMI_STRUCTURED:
        if reason:
            raise InvalidProblemError(f'backend "semi_structured" cannot run it: {reason}; exclude it, or use "auto"')
        return SEMI_STRUCTURED, ""
    if reason:
        return MASKED, reason
    semi_structured = _semi_structured()
    pays, why = semi_structured.pays(tuple(weight.shape), weight.dtype, weight.device)
    return (SEMI_STRUCTURED, why) if pays else (MASKED, why)


def use(module: nn.Module, backend: str, *, dense: bool) -> None:
    """Bring the backend's packed weights up to date with weight and mask; without a mask, multiply dense.

    Called after every optimizer step, not per micro-batch.
    """
    if backend != SEMI_STRUCTURED:
        return
    semi_structured = _semi_structured()
    if dense:
        semi_structured.detach(module)
    elif semi_structured.attached(module):
        semi_structured.refresh(module)
    else:
        semi_structured.attach(module)


def release(module: nn.Module) -> None:
    """Give the module its own forward back, where packed weights have replaced it."""
    if find_spec(_MODULE) and (semi_structured := _semi_structured()).attached(module):
        semi_structured.detach(module)


def _semi_structured() -> Any:
    return import_module(_MODULE)


def _obstacle(module: nn.Module, tensor: str, weight: Tensor, pattern: Pattern) -> str:
    """Why packed weights cannot run this layer, or ""."""
    if not isinstance(module, nn.Linear) or isinstance(module, NonDynamicallyQuantizableLinear):
        kind = type_before_parametrizations(module).__name__
        return f"it takes nn.Linear only, not {tensor} of {kind}"
    if not find_spec(_MODULE):
        return "packed weights are not part of this build"
    possible, reason = _semi_structured().supported(tuple(weight.shape), weight.dtype, weight.device, pattern)
    return "" if possible else reason

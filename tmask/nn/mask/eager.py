"""Whether torch runs operations on a tensor as they are written."""

from __future__ import annotations

import torch
from torch import Tensor


def is_eager(tensor: Tensor) -> bool:
    """Whether nothing compiles, traces or transforms what is done with the tensor."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        or torch._C._get_tracing_state() is not None
    )

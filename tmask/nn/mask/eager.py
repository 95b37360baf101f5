"""Whether torch runs operations as they are written."""

from __future__ import annotations

import torch


def is_eager() -> bool:
    """Whether nothing compiles, traces or transforms what is run."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
    )

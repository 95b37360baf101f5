"""Whether torch runs operations as they are written, and when they are called."""

from __future__ import annotations

import torch


def is_eager() -> bool:
    """Whether nothing compiles, traces or transforms what is run."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
    )


def is_captured(device: torch.device) -> bool:
    """Whether what runs on a device now goes into a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()

"""How many tokens a linear layer sees in its first batch, noted by a hook that then takes itself off."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FirstBatch:
    """Watches a module until its first batch in training.

    Nothing is done there but to count: what is packed may not change between a forward pass and its backward pass,
    which an activation checkpoint would notice. Compiled code and captured graphs run no hooks at their replays, and
    what they are made from may not be a real batch, so neither is looked at.

    Attributes:
        tokens: rows of the first input, once it has come; None before.
    """

    def __init__(self, module: nn.Module) -> None:
        self.tokens: int | None = None
        self._hook = module.register_forward_pre_hook(self._see)

    def _see(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if torch.compiler.is_compiling() or being_captured():
            return
        x = inputs[0] if inputs else None
        # Evaluation has batches of its own.
        if isinstance(x, Tensor) and x.numel() and module.training and torch.is_grad_enabled():
            self.tokens = x.numel() // x.shape[-1]
            self.end()

    def end(self) -> None:
        """Watch no more."""
        self._hook.remove()


def being_captured() -> bool:
    """Whether what runs now goes into a CUDA graph."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()

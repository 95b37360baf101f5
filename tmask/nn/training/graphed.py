"""A training step's forward and backward passes as one CUDA graph, captured anew when what it reads has moved.

torch's own `make_graphed_callables` captures once. Steps and new masks are written where the old ones were, but a layer
may begin or end to be packed, or be moved; a graph that was captured before would go on with memory that nobody writes
any more, silently. So this one looks, before each replay, where everything lies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tmask.nn.packing.attaching import addresses
from tmask.nn.packing.graph_timing import captured


class GraphedStep:
    """Forward and backward of a model as a graph; on a CPU, which has none, as they are.

    Args:
        model: whose parameters get gradients: at each call those of that call alone.
        step: runs forward and backward and returns tensors or nothing. It reads its batch from the same tensors at each
            call (copy the next one into them), waits for nothing, and leaves the optimizer to its caller.
    """

    def __init__(self, model: nn.Module, step: Callable[[], Any]) -> None:
        self._model, self._step = model, step
        self._device = next(model.parameters()).device
        self._lies: list[Any] | None = None
        self._modules: list[nn.Module] = []
        self._replay: Callable[[], Any] = self._run
        self._result: Any = None
        self._gradients: list[tuple[nn.Parameter, Tensor | None]] = []

    def __call__(self) -> Any:
        """Compute the gradients, and return what the step returned; its tensors are written to again by the next call.

        Raises:
            KernelError: the step cannot be captured.
        """
        lies = self._where()
        if lies != self._lies:
            self._modules = list(self._model.modules())
            # Two graphs at once would take the memory of two steps.
            self._replay, self._gradients = self._run, []
            self._replay = captured(self._run, self._device)
            # Those of the capture: what replays write to, even where zero_grad has let go of them since.
            self._gradients = [(one, one.grad) for one in self._model.parameters()]
            self._lies = self._where()  # warm-up may have packed for the dtype of autocast
        self._replay()
        if self._device.type == "cuda":
            for parameter, gradient in self._gradients:
                parameter.grad = gradient
        return self._result

    def _run(self) -> None:
        for parameter in self._model.parameters():
            parameter.grad = None
        # Its autograd graph would have gradients added on the stream of an earlier run.
        self._result = None
        self._result = self._step()

    def _where(self) -> list[Any]:
        """Where everything lies that a graph reads and a step, a renewal or a move may put elsewhere."""
        lies: list[Any] = [self._model.training, torch.is_autocast_enabled(self._device.type)]
        # By the modules' own tables, at every step: torch's walk over a model takes as long as small kernels.
        for module in self._modules:
            if module._modules:
                lies += map(id, module._modules.values())
            if module._parameters or module._buffers:
                tensors = (*module._parameters.values(), *module._buffers.values())
                lies += [tensor.data_ptr() for tensor in tensors if tensor is not None]
            if isinstance(module, nn.Linear):
                lies += addresses(module)
        return lies

"""Lazy low-rank adapters: late in training each masked linear layer gains a product of two thin matrices.

y = x W^T + (x A^T) B^T with A (rank, in) and B (out, rank), B = 0 at first, so that the layer starts as it is. They
cost rank * (in + out) weights a layer, and are to give back some of what the mask took [Mozaffari2025] (SLoPe, which
adds them in the last 1 % of steps).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tmask.errors import InvalidProblemError
from tmask.nn.training.sparsifier import Sparsifier

NAME = "low_rank"


class LowRank(nn.Module):
    """x -> (x A^T) B^T, or nothing before it begins. A child of the layer, under the name `low_rank`."""

    def __init__(self, layer: nn.Linear, rank: int, active: bool) -> None:
        super().__init__()
        weight = layer.weight
        place: dict[str, Any] = {"dtype": weight.dtype, "device": weight.device}
        self.active = active
        self.down = nn.Parameter(torch.empty(rank, layer.in_features, **place))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank, **place))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(nn.functional.linear(x, self.down), self.up)


class Adapters:
    """The adapters of a model, until `remove`.

    Attributes:
        layers: names of the layers that have one.
    """

    def __init__(self, modules: dict[str, nn.Linear], begin: int) -> None:
        self._modules, self._begin = modules, begin
        self.layers = tuple(modules)

    def parameters(self) -> Iterator[nn.Parameter]:
        """What an optimizer must hold for them to learn."""
        for module in self._modules.values():
            yield from _adapter(module).parameters()

    def at(self, step: int) -> None:
        """Begin, or not yet: the Sparsifier calls it after every step, and when it has loaded a state."""
        for module in self._modules.values():
            _adapter(module).active = step >= self._begin

    @torch.no_grad()
    def merge(self) -> None:
        """Add the products to the weights of an exported model, which are dense then, and remove the adapters.

        Raises:
            InvalidProblemError: a weight has its mask still, which would cut the sum; export the model first.
        """
        for name, module in self._modules.items():
            if hasattr(module, "parametrizations"):
                raise InvalidProblemError(f"layer {name!r} has its mask still, which would cut the sum; export first")
        for module in self._modules.values():
            adapter = _adapter(module)
            if adapter.active:
                module.weight += adapter.up @ adapter.down
        self.remove()

    def remove(self) -> None:
        """Take the adapters off, whatever they have learned."""
        for module in self._modules.values():
            hooks = module._forward_hooks
            for key in [key for key, hook in hooks.items() if hook is _add]:
                del hooks[key]
            if hasattr(module, NAME):
                delattr(module, NAME)
        self._modules.clear()  # the Sparsifier still calls `at`


def add_low_rank(sparsifier: Sparsifier, rank: int, *, begin: int) -> Adapters:
    """Give every masked nn.Linear an adapter that begins at a step; before it, the layer computes what it did.

    Make the optimizer after this, or hand it the new parameters: `optimizer.add_param_group({"params":
    list(adapters.parameters())})`. They get no gradient before they begin, and optimizers pass over them.

    Args:
        rank: of the product, at most the lesser side of each weight.
        begin: optimizer steps behind it; [Mozaffari2025] has 99 % of all.
    Raises:
        InvalidProblemError: a rank below 1 or above a side, a begin below 0, no masked nn.Linear, or there are
            adapters already.
    """
    for name, value, least in (("rank", rank, 1), ("begin", begin, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidProblemError(f"{name} must be an integer of at least {least}, got {value!r}")
    modules = {
        owner.name: owner.module
        for layer in sparsifier.layers
        for owner in layer.owners
        if isinstance(owner.module, nn.Linear)
    }
    if not modules:
        raise InvalidProblemError("no masked layer is an nn.Linear, and only such layers take low-rank adapters")
    for name, module in modules.items():
        if hasattr(module, NAME):
            raise InvalidProblemError(f"layer {name!r} has something under the name {NAME!r} already")
        if rank > min(module.in_features, module.out_features):
            raise InvalidProblemError(
                f"rank {rank}: layer {name!r} is {module.out_features} x {module.in_features}, of rank "
                f"{min(module.in_features, module.out_features)} at most"
            )
    for module in modules.values():
        module.add_module(NAME, LowRank(module, rank, active=False))
        module.register_forward_hook(_add)
    adapters = Adapters(modules, begin)
    sparsifier.follow(adapters.at)
    return adapters


def _adapter(module: nn.Linear) -> LowRank:
    adapter: LowRank = getattr(module, NAME)
    return adapter


def _add(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    """The forward hook of a layer: a plain function, which a deep copy of the layer shares."""
    adapter: LowRank = getattr(module, NAME)
    return output + adapter(inputs[0]) if adapter.active else output

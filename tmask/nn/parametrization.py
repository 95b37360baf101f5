"""The parametrization that puts a mask on a weight, and the two rules for its gradient.

The layer keeps its dense master weight W as `parametrizations.<name>.original`; everything that reads the layer's
weight, kernels of torch that bypass `forward` included, gets the effective weight where(mask, W, 0).

Gradient rules, with G the gradient of the effective weight:

- "straight-through": W receives G, so that masked weights keep learning and can come back [Bengio2013].
- "masked": W receives G where the mask keeps, 0 elsewhere; the true derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tmask.errors import InvalidProblemError
from tmask.pattern import Pattern

Gradient = Literal["straight-through", "masked"]


def check_gradient(rule: str) -> None:
    """Return if the text names a gradient rule; raise InvalidProblemError if not."""
    if rule not in get_args(Gradient):
        raise InvalidProblemError(f"gradient must be one of {', '.join(get_args(Gradient))}; got {rule!r}")


class _StraightThrough(torch.autograd.Function):
    """where(mask, weight, 0) whose gradient passes to the weight whole."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, mask: Tensor) -> Tensor:
        return apply_mask(weight, mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is saved: the gradient depends on neither weight nor mask."""

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, None]:
        return grads[0], None


def apply_mask(weight: Tensor, mask: Tensor) -> Tensor:
    """The weight where the mask keeps, +0.0 elsewhere: a product would leave -0.0 (and NaN) behind."""
    return torch.where(mask, weight, 0.0)


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, as `fully_shard` makes of parameters; told without importing that class."""
    return hasattr(tensor, "device_mesh")


class Masked(nn.Module):
    """W -> where(mask, W, 0). One instance serves every layer that shares the weight.

    Buffers, saved with the model:
        mask: bool, the weight's shape, True = kept; a DTensor once the weight is one. It is replaced in place, so that
            compiled graphs and distributed wrappers go on with the same tensor. Under the masked rule torch refuses a
            backward pass across such a change; the straight-through one needs the mask in forward alone.
        pattern: int64 (2,), n and m of `target`: a checkpoint of another pattern is not loaded without a word.

    Args:
        weight: gives the shape and the device; the mask begins as all True.
        pattern: that training ends with, kept as `target`.
        gradient: rule for the gradient of W.
    """

    mask: Tensor
    pattern: Tensor

    def __init__(self, weight: Tensor, pattern: Pattern, gradient: Gradient) -> None:
        super().__init__()
        self.gradient = gradient
        self.target = pattern
        self._gather_and_apply: Callable[[Tensor, Tensor, bool], Tensor] | None = None
        self.register_buffer("mask", torch.ones(weight.shape, dtype=torch.bool, device=weight.device))
        self.register_buffer("pattern", torch.tensor([pattern.n, pattern.m], device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        if is_sharded(weight):
            self.follow(weight)
        elif self._gather_and_apply is not None:
            return self._gather_and_apply(weight, self.mask, self.gradient == "masked")
        if self.gradient == "masked":
            return apply_mask(weight, self.mask)
        masked: Tensor = _StraightThrough.apply(weight, self.mask)  # type: ignore[no-untyped-call]
        return masked

    def follow(self, weight: Tensor) -> bool:
        """Cut the mask like a weight that `fully_shard` has cut since; returns whether it did."""
        if not is_sharded(weight) or is_sharded(self.mask):
            return False
        from tmask.nn.sharding import gather_and_apply, shard_like

        self.mask = shard_like(self.mask, weight)
        self._gather_and_apply = gather_and_apply
        return True

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What `layer.weight = value` stores: the value itself becomes the dense master weight."""
        return weight

    def extra_repr(self) -> str:
        return f"{self.target}, gradient={self.gradient}"

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(prefix + "pattern")
        if saved is not None and (trained := Pattern(*saved.tolist())) != self.target:
            raise InvalidProblemError(
                f"layer {layer_name(prefix)!r}: the checkpoint was trained with pattern {trained}, this model with "
                f"{self.target}; call sparsify with the checkpoint's pattern before loading it"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


def layer_name(path: str) -> str:
    """The parameter's own name behind the path of its parametrization in the model."""
    return path.removesuffix(".").removesuffix(".0").replace("parametrizations.", "")


def masked_of(module: nn.Module, tensor: str) -> Masked | None:
    """The mask on a module's tensor, or None."""
    if not parametrize.is_parametrized(module, tensor):
        return None
    return next((step for step in steps_of(module, tensor) if isinstance(step, Masked)), None)


def steps_of(module: nn.Module, tensor: str) -> parametrize.ParametrizationList:
    """torch's list of the parametrizations on a tensor, which also holds the dense master weight as `original`."""
    return module.parametrizations[tensor]  # type: ignore[index, return-value]


def put_on(module: nn.Module, tensor: str, masked: Masked) -> None:
    """Register the mask; the Parameter object stays the same, so that optimizers and ties need no care.

    Its position among the module's parameters is noted, for `take_off` to restore.
    """
    position = list(module._parameters).index(tensor)
    weight: Any = module._parameters[tensor]
    # torch ends with weight.set_(weight), which gives it another gradient accumulator: DDP, if it is around the model
    # already, and every hook on the old one would then wait for gradients in vain.
    weight.set_ = lambda source: weight
    try:
        parametrize.register_parametrization(module, tensor, masked, unsafe=True)
    finally:
        del weight.set_
    vars(steps_of(module, tensor))["position"] = position


def take_off(module: nn.Module, tensor: str) -> None:
    """The dense master weight as a plain parameter again, at its old place among the module's parameters.

    A module's masks come off in the reverse order, so that each position is again what it was.

    Raises:
        InvalidProblemError: the user has put other parametrizations on it.
    """
    check_alone(module, tensor)
    position: int = vars(steps_of(module, tensor))["position"]
    _own_class(module)
    parametrize.remove_parametrizations(module, tensor, leave_parametrized=False)
    later = [name for name in module._parameters if name != tensor][position:]
    for name in later:
        module._parameters[name] = module._parameters.pop(name)


def check_alone(module: nn.Module, tensor: str) -> None:
    """Return if the mask can come off: it is the only parametrization, and FSDP keeps no record of the parameter.

    Raises:
        InvalidProblemError: it cannot.
    """
    if is_sharded(steps_of(module, tensor).original):
        raise InvalidProblemError(
            f"{tensor} of {type(module).__name__} is sharded by fully_shard, which would lose it if its mask came off; "
            "save export_state_dict(model), and load that into a plain model"
        )
    if others := [type(step).__name__ for step in steps_of(module, tensor) if not isinstance(step, Masked)]:
        raise InvalidProblemError(
            f"{tensor} of {type(module).__name__} has other parametrizations beside its mask ({', '.join(others)}); "
            "remove them first"
        )


def _own_class(module: nn.Module) -> None:
    """Give a deep copy a class of its own.

    torch deletes the injected property from the class, which a deep copy shares with the module that it was copied
    from: without this, taking the mask off a copy would break the original.
    """
    shared = type(module)
    members = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, members)

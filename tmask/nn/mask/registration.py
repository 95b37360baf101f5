"""A mask on and off a module: torch's parametrizations, with what they lack for masks that come and go."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from tmask.errors import InvalidProblemError
from tmask.nn.mask.parametrization import Masked
from tmask.nn.mask.shards import is_sharded


def masked_of(module: nn.Module, tensor: str) -> Masked | None:
    """The mask on a module's tensor, or None."""
    # By the modules' own tables: this is asked several times a layer and step, and torch's way takes ten times as long.
    lists = vars(module).get("_modules", {}).get("parametrizations")  # a scripted module has no such table
    steps = None if lists is None else lists._modules.get(tensor)
    if steps is None:
        return None
    return next((step for step in steps._modules.values() if isinstance(step, Masked)), None)


def master_of(module: nn.Module, tensor: str) -> Any:
    """The dense master weight of a tensor that has a mask."""
    steps = steps_of(module, tensor)
    master = steps._parameters.get("original")
    return steps.original if master is None else master  # FSDP1 keeps it as a plain attribute


def steps_of(module: nn.Module, tensor: str) -> parametrize.ParametrizationList:
    """torch's list of the parametrizations on a tensor, which also holds the dense master weight as `original`."""
    return module._modules["parametrizations"]._modules[tensor]  # type: ignore[union-attr, return-value]


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
        # Unsafe: torch would mask the weight twice to see whether dtype and shape stay, as `where` keeps them.
        parametrize.register_parametrization(module, tensor, masked, unsafe=True)
    finally:
        del weight.set_
    vars(steps_of(module, tensor))["position"] = position
    _take_dense_states(module, tensor)
    # In the class that torch has just made for this module.
    type(module).register_parameter = _register_parameter  # type: ignore[method-assign, assignment]


def take_off(module: nn.Module, tensor: str) -> None:
    """The dense master weight as a plain parameter again, at its old place among the module's parameters.

    A module's masks come off in the reverse order, so that each position is again what it was.

    Raises:
        InvalidProblemError: the user has put other parametrizations on it.
    """
    check_alone(module, tensor)
    position: int = vars(steps_of(module, tensor))["position"]
    module._load_state_dict_pre_hooks.pop(vars(steps_of(module, tensor))["hook"], None)
    _own_class(module)
    parametrize.remove_parametrizations(module, tensor, leave_parametrized=False)
    # A dict goes by the order of insertion: whatever stood behind the weight is put behind it again.
    later = [name for name in module._parameters if name != tensor][position:]
    for name in later:
        module._parameters[name] = module._parameters.pop(name)


def _take_dense_states(module: nn.Module, tensor: str) -> None:
    """Let the module load a state of its dense twin, as with `strict=False`: the weight in it becomes the master.

    torch alone would pass over the weight's own name, and leave the master as it was.
    """

    def take(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        master = f"{prefix}parametrizations.{tensor}.original"
        if prefix + tensor in state and master not in state:
            state[master] = state.pop(prefix + tensor)

    handle = module.register_load_state_dict_pre_hook(take)  # type: ignore[no-untyped-call]
    vars(steps_of(module, tensor))["hook"] = handle.id  # the number, which holds in a deep copy too


def _register_parameter(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
    """As of every module, but a Parameter in the place of a weight that has a mask is an error, and no KeyError."""
    if param is not None and masked_of(module, name) is not None:
        raise InvalidProblemError(
            f"{name} of {type(module).__name__} has a mask, and another Parameter cannot take its place: assign a "
            "tensor (parameter.detach()) to write into the dense weight; tie weights, and fuse layers, before sparsify "
            "or after export"
        )
    nn.Module.register_parameter(module, name, param)


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

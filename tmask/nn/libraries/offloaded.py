"""Weights that accelerate keeps elsewhere, brought within reach for as long as they are looked at and changed.

A hook of accelerate's that offloads has a map of weights, in memory or in files, and puts one into its module for each
call alone; between calls the parameter has no values. Here the module gets a parameter that shares the map's own memory
(a file is mapped into it), and the hook rests; so what is written arrives where the hook will read it. All is told by
form: accelerate is not imported.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")

_CPU = torch.device("cpu")


def on_offloaded_too(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose first argument is a model, with the model's offloaded weights within reach."""

    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        model = args[0] if args else kwargs.get("model")
        with weights_in_reach(model) if isinstance(model, nn.Module) else ExitStack():
            return function(*args, **kwargs)

    return inner


@contextmanager
def weights_in_reach(model: nn.Module) -> Iterator[None]:
    """All offloaded weights as parameters with values, on the CPU; as before at the end, with what they have become."""
    with ExitStack() as stack:
        # Weights that are tied share their memory in the map too, and must be one parameter again.
        shared: dict[Any, nn.Parameter] = {}
        for module in model.modules():
            for hook in _hooks(module):
                _bring(module, hook, shared, stack)
        yield


def _hooks(module: nn.Module) -> list[Any]:
    """The hooks on a module that offload."""
    hook: Any = vars(module).get("_hf_hook")
    return [one for one in getattr(hook, "hooks", (hook,)) if getattr(one, "offload", False) and one.weights_map]


def _bring(module: nn.Module, hook: Any, shared: dict[Any, nn.Parameter], stack: ExitStack) -> None:
    """Put one module's weights in place, and leave its end to the stack."""
    below = bool(hook.place_submodules)
    for name, parameter in [*module.named_parameters(recurse=below)]:
        # Subclasses are a quantiser's, with more to them than values.
        if parameter.is_meta and type(parameter) is nn.Parameter:
            value = _within_reach(hook.weights_map, name, stack)
            if value is None:
                continue
            key = (value.data_ptr(), value.shape, value.stride(), value.dtype)
            new = shared.setdefault(key, nn.Parameter(value, requires_grad=parameter.requires_grad))
            _swap(module, "_parameters", name, new, stack)
    for name, buffer in [*module.named_buffers(recurse=below)]:
        if buffer.is_meta:
            if (value := _within_reach(hook.weights_map, name, stack)) is not None:
                _swap(module, "_buffers", name, value, stack)
        elif buffer.device != _CPU:  # where the hook computes, which is the CPU for now
            moved = buffer.to(_CPU)
            stack.callback(buffer.copy_, moved)
            _swap(module, "_buffers", name, moved, stack)
    # Without the map, so that a copy of the model does not copy it.
    resting = {"offload": False, "weights_map": None, "tied_params_map": None, "execution_device": _CPU}
    before = {name: getattr(hook, name) for name in resting}
    vars(hook).update(resting)
    stack.callback(vars(hook).update, before)


def _swap(module: nn.Module, kind: str, name: str, new: Tensor, stack: ExitStack) -> None:
    """Another tensor under a module's name, until the stack ends."""
    owner, _, leaf = name.rpartition(".")
    held = getattr(module.get_submodule(owner), kind)
    stack.callback(held.__setitem__, leaf, held[leaf])
    held[leaf] = new


def _within_reach(weights: Any, name: str, stack: ExitStack) -> Tensor | None:
    """A weight of a hook's map: what is written to it is written to the map; None if the map does not have it."""
    while hasattr(weights, "dataset") and hasattr(weights, "prefix"):  # a part of another map
        weights, name = weights.dataset, weights.prefix + name
    held = weights if isinstance(weights, dict) else getattr(weights, "state_dict", {})
    if name in held:
        found: Tensor = held[name]
        return found.detach()
    entry = (getattr(weights, "index", None) or {}).get(name)
    if entry is None:
        return None
    if "safetensors_file" not in entry:
        return _mapped(Path(weights.save_folder) / f"{name}.dat", entry, stack)
    # In the files that the model was loaded from, which stay as they are: the map holds what has changed, in memory.
    value: Tensor = weights[name].clone()

    def put_back() -> None:
        if not torch.equal(value, weights[name]):
            held[name] = value

    stack.callback(put_back)
    return value


def _mapped(path: Path, entry: Mapping[str, Any], stack: ExitStack) -> Tensor:
    """A file of accelerate's, which holds the numbers alone."""
    dtype, shape = getattr(torch, entry["dtype"]), tuple(entry["shape"])
    file = np.memmap(path, dtype=np.uint8, mode="r+")  # as bytes: numpy has no bfloat16
    stack.callback(file.flush)
    return torch.from_numpy(file).view(dtype).reshape(shape)

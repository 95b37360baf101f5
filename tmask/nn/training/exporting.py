"""Turn a sparsified model into a plain one: masked weights under their original names."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from tmask.errors import InvalidProblemError
from tmask.nn.mask.parametrization import Masked
from tmask.nn.mask.registration import check_alone, take_off
from tmask.nn.mask.saved import layer_name
from tmask.nn.packing.backends import release


@torch.no_grad()
def export(model: nn.Module) -> nn.Module:
    """Bake the masks into the weights, in place: the model then has the dense layout again, with zeros.

    Parameters keep their objects, names and order, so that ties and optimizers survive. The dense master weights are
    lost: to train on, deep-copy the model first or use `export_state_dict`.

    Returns:
        The model.
    Raises:
        InvalidProblemError: no layer has a mask, or the user has put other parametrizations beside one.
        InvalidMaskError: a mask is not one that was found, in a copy whose buffers were averaged for example. The model
            is then as it was.
    """
    found = _masked_tensors(model)
    # All, before the first comes off: a model that is exported by half would be of no use.
    for module, tensor, _ in found:
        check_alone(module, tensor)
    # In reverse, since `take_off` restores the order of parameters step by step.
    # A tied weight comes by once for each module: to mask it again changes nothing.
    for module, tensor, steps in reversed(found):
        original, effective = steps.original, steps()
        take_off(module, tensor)
        release(module)
        # Into the Parameter itself, which optimizers and other owners of the weight hold.
        original.copy_(effective)
    return model


@torch.no_grad()
def export_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict that the exported model would have; the model itself trains on untouched.

    Tied weights share one tensor in it too.

    Raises:
        InvalidProblemError: no layer has a mask.
        InvalidMaskError: as `export`; masks that `fully_shard` has cut are not judged here, but by `bake`.
    """
    masked = _masked_tensors(model)
    effective = {id(steps.original): steps() for _, _, steps in masked}
    state = cast("dict[str, Tensor]", dict(model.state_dict()))
    # A state dict holds a module that is in the model twice under both names.
    for name, steps in list(model.named_modules(remove_duplicate=False)):
        if isinstance(steps, ParametrizationList) and id(steps.original) in effective:
            for key in [key for key in state if key.startswith(f"{name}.")]:
                del state[key]
            state[layer_name(name)] = effective[id(steps.original)]
    return state


def _masked_tensors(model: nn.Module) -> list[tuple[nn.Module, str, ParametrizationList]]:
    """Every (module, tensor name, its parametrizations) with a mask, each of them checked.

    Who trained them without telling the Sparsifier of a step is told so.
    """
    found = []
    for name, module in model.named_modules():
        for tensor, steps in getattr(module, "parametrizations", {}).items():
            if masked := [step for step in steps if isinstance(step, Masked)]:
                masked[0].check(f"{name}.{tensor}" if name else tensor)
                found.append((module, tensor, steps))
    reminders = {step.reminder for _, _, steps in found for step in steps if isinstance(step, Masked)} - {None}
    for reminder in reminders:
        reminder.tell("export")
    if not found:
        raise InvalidProblemError("the model has no masks: it was never sparsified, or is exported already")
    return found

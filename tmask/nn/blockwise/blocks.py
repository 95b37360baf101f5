"""Which modules of a model are its blocks."""

from __future__ import annotations

from torch import nn

from tmask.errors import InvalidProblemError

LEAST = 2  # blocks in a list that is found without its name


def find_blocks(model: nn.Module, name: str = "") -> str:
    """The name of the list of blocks in a model.

    Args:
        name: as the user gives it; "" to look for the longest `ModuleList` of one class, as decoders have it.
    Raises:
        InvalidProblemError: no such list, or none that stands out; names those that there are.
    """
    if name:
        try:
            found = model.get_submodule(name)
        except AttributeError:
            found = None
        if not isinstance(found, nn.ModuleList | nn.Sequential) or not len(found):  # an empty list has no blocks
            raise InvalidProblemError(f"blocks={name!r} is no list of modules in this model; {_lists(model)}")
        return name
    if isinstance(model, nn.Sequential):
        return ""  # the model is its own list
    outer: dict[str, nn.ModuleList] = {
        key: module
        for key, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) >= LEAST
        and len({type(block) for block in module}) == 1
        and not _inside_another(model, key)
    }
    if not outer:
        raise InvalidProblemError(f"the model has no list of like blocks; name it with blocks=. {_lists(model)}")
    longest = max(len(module) for module in outer.values())
    names = [key for key, module in outer.items() if len(module) == longest]
    if len(names) > 1:
        raise InvalidProblemError(f"several lists could be the model's blocks: {', '.join(names)}; choose with blocks=")
    return names[0]


def _inside_another(model: nn.Module, name: str) -> bool:
    """Whether a list stands in a block of another list, as experts do."""
    parts = name.split(".")
    return any(isinstance(model.get_submodule(".".join(parts[:k])), nn.ModuleList) for k in range(1, len(parts)))


def _lists(model: nn.Module) -> str:
    names = [
        key or "the model" for key, module in model.named_modules() if isinstance(module, nn.ModuleList | nn.Sequential)
    ]
    return f"lists of modules in it: {', '.join(names[:10])}" if names else "it has no list of modules at all"

"""Where a parameter's numbers lie in the files of a model: under one name, or in parts under several.

transformers computes with experts in one stack, where files have a matrix for each of them. What it does to write such
files is done here to tensors without contents, which shows of every stored tensor which part of which parameter it is.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tmask.errors import InvalidProblemError
from tmask.files.weight_file import WeightFile


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A tensor in the files, as a part of a parameter.

    Args:
        name: in the files.
        shape, stride, offset: of the part in a contiguous parameter.
    """

    name: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0

    @classmethod
    def whole(cls, name: str, tensor: Tensor) -> StoredPart:
        """All of a parameter."""
        return cls(name, tuple(tensor.shape), torch.empty(tensor.shape, device="meta").stride())

    def of(self, tensor: Tensor) -> Tensor:
        """This part of the parameter, or of anything in its shape: a view where that is contiguous."""
        return tensor.contiguous().as_strided(self.shape, self.stride, self.offset)


Parts = Mapping[str, tuple[StoredPart, ...]]


def stored_parts(model: nn.Module, file: WeightFile, blocks_name: str) -> dict[str, tuple[StoredPart, ...]]:
    """The tensors of the files by the name that their parameter has in the model.

    Raises:
        InvalidProblemError: a parameter of a block that the files do not have, or have in another form.
    """
    prefix = str(getattr(model, "base_model_prefix", ""))
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    state = model.state_dict(keep_vars=True)  # parameters, and buffers that are stored
    found: dict[str, tuple[StoredPart, ...]] = {}
    for name, tensor in state.items():
        candidates = (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}")  # some files lack it, or have it
        stored = next((candidate for candidate in candidates if candidate in file.shapes), None)
        if stored is not None and file.shapes[stored] == tuple(tensor.shape):
            found[name] = (StoredPart.whole(stored, tensor),)
    missing = {name: tensor for name, tensor in state.items() if name not in found}
    found |= _converted(model, missing, file)
    for name, tensor in missing.items():
        if name not in found and name in parameters and name.startswith(f"{blocks_name}."):
            raise InvalidProblemError(
                f"{file.path} holds no tensor for {name} {tuple(tensor.shape)}: this model is stored in another "
                "form than it computes in. Load it with from_pretrained, call tmask.nn.prune_blocks on it, and save it "
                "with save_pretrained"
            )
    return found


def _converted(model: nn.Module, state: Mapping[str, Tensor], file: WeightFile) -> dict[str, tuple[StoredPart, ...]]:
    """Parameters that the files have under the names, and in the parts, that `save_pretrained` writes."""
    if not state or importlib.util.find_spec("transformers.core_model_loading") is None:  # before transformers 5
        return {}
    from transformers.core_model_loading import revert_weight_conversion

    empty = {name: torch.empty(tensor.shape, device="meta") for name, tensor in state.items()}
    owners = {_storage(tensor): name for name, tensor in empty.items()}
    known: Any = model
    with _Views():
        written: Mapping[str, Any] = revert_weight_conversion(known, dict(empty))
    parts: dict[str, list[StoredPart]] = {}
    for stored, view in written.items():
        # Put together anew, it is no part of one parameter, and has a storage that belongs to none.
        owner = owners.get(_storage(view))
        if owner is not None and file.shapes.get(stored) == tuple(view.shape):
            parts.setdefault(owner, []).append(
                StoredPart(stored, tuple(view.shape), view.stride(), view.storage_offset())
            )
    return {name: tuple(each) for name, each in parts.items() if _size(each) == state[name].numel()}


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _size(parts: list[StoredPart]) -> int:
    return sum(torch.Size(part.shape).numel() for part in parts)


class _Views(TorchFunctionMode):
    """Inside, nothing is made contiguous, so that parts stay views of what they were cut from."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is torch.Tensor.contiguous else func(*args, **kwargs or {})

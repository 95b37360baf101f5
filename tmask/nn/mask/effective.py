"""The effective weight as others get it: it takes writes as the parameter would, and hands them to the dense master.

`layer.weight` of a masked layer is computed anew at each access, so that what is written into it would be lost without
a word: `nn.init.zeros_(layer.weight)`, `layer.weight.data += delta` (as adapters are merged), `layer.weight[0] = 1`.
A change in place by a method, through `.data`, `.detach()` or a view too, is therefore made on the master. What no
method sees (`out=`, `torch._foreach_...`) is noticed when the tensor is let go, and is an error at the next access.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tmask.errors import InvalidProblemError
from tmask.nn.mask.eager import is_eager

# In place by name, but no write into the memory.
_OWN = {"requires_grad_", "detach_"}
# They change what a tensor's memory means, which a mask of the old shape cannot follow.
_RESHAPING = {name for name in dir(Tensor) if name.startswith(("set_", "resize_", "as_strided_", "sparse_resize_"))} | {
    "t_", "transpose_", "swapaxes_", "swapdims_", "squeeze_", "unsqueeze_",
}  # fmt: skip
_OPERATORS = ["add", "sub", "mul", "truediv", "div", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift"]
_WRITING = {
    *(name for name in dir(Tensor) if name.endswith("_") and not name.startswith("_")),
    *(name for name in (f"__i{operator}__" for operator in _OPERATORS) if hasattr(Tensor, name)),
    "__setitem__",
}  # fmt: skip
_VIEWING = {
    *("view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze"),
    *("t", "transpose", "permute", "movedim", "moveaxis", "swapaxes", "swapdims", "expand", "expand_as", "unfold"),
    *("narrow", "select", "diagonal", "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "__getitem__"),
    *("as_strided", "detach"),
}  # fmt: skip


@dataclass(slots=True)
class Lost:
    """What was written into effective weights past every method, to be told at the next access."""

    text: str = ""

    def check(self) -> None:
        """Return if nothing was lost since.

        Raises:
            InvalidProblemError: something was.
        """
        text, self.text = self.text, ""
        if text:
            raise InvalidProblemError(text)


@dataclass(slots=True)
class _Origin:
    """Where an effective weight comes from.

    Args:
        master: the dense weight; values: makes the effective weight of it.
        whole: the effective weight that this is a view of; None for that itself.
        view: makes of the master what corresponds to this view.
        version: of the memory's changes, when last known to be right; None where another tensor's count is looked at.
    """

    master: Tensor
    values: Callable[[Tensor], Tensor]
    lost: Lost
    whole: Tensor | None = None
    view: Callable[[Tensor], Tensor] = field(default=lambda master: master)
    version: int | None = None


class Writing(Tensor):
    """What effective weights have in common, whole ones and shards: methods that write to W."""

    _origin: _Origin

    def __del__(self) -> None:
        origin = self.__dict__.get("_origin")
        if origin is not None and origin.version is not None and _version(self) != origin.version:
            origin.lost.text = (
                f"something has changed the weight {tuple(self.shape)} of a masked layer in place, past the methods of "
                "tensors (by out= or torch._foreach_...), and that is lost: under a mask the weight is computed at "
                "each access. Write to module.parametrizations.weight.original, the dense weight"
            )

    @property
    def data(self) -> Tensor:
        """The effective weight without its history, whose changes go to the master too."""
        origin = self._origin
        plain = Tensor.data.__get__(self)  # type: ignore[attr-defined]
        return _made(plain, origin, self, lambda master: origin.view(master).data, counts=True)

    @data.setter
    def data(self, value: Tensor) -> None:
        origin = self._origin
        # `weight.data += x` has changed the master by now, and ends here.
        if isinstance(value, Writing) and value._origin.master is origin.master and value.shape == self.shape:
            return
        if (value.shape, value.dtype, value.device) != (self.shape, self.dtype, self.device):
            raise InvalidProblemError(
                f"weight.data of a masked layer, {self.dtype} {tuple(self.shape)} on {self.device}, cannot become "
                f"{value.dtype} {tuple(value.shape)} on {value.device}; export the model first, or move all of it"
            )
        origin.view(origin.master).data.copy_(value)
        _refresh(self)

    @property
    def requires_grad(self) -> bool:
        """Whether the effective weight has a history."""
        return Tensor.requires_grad.__get__(self)  # type: ignore[attr-defined, no-any-return]

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        # Of the weight as the module gives it, the master is meant; of a detached one, the tensor itself.
        if self._origin.whole is None:
            self._origin.master.requires_grad = value
        else:
            Tensor.requires_grad.__set__(self, value)  # type: ignore[attr-defined]

    def requires_grad_(self, mode: bool = True) -> Tensor:
        """Freeze or free the dense weight."""
        self.requires_grad = mode
        return self

    def numpy(self, *args: Any, **named: Any) -> Any:
        """As of a tensor, read-only: what is written there would reach no weight."""
        array = _plain(self).numpy(*args, **named)
        array.flags.writeable = False
        return array

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return copy.deepcopy(_plain(self), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _plain(self).__reduce_ex__(protocol)  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:  # type: ignore[override]
        return repr(_plain(self))

    def __setattr__(self, name: str, value: Any) -> None:
        # So marks nn.Parameter(weight) what it has made; it has asked for a detached tensor of the same class.
        if name == "_is_param":
            del self._origin
            self._become_parameter()
        else:
            super().__setattr__(name, value)

    def _become_parameter(self) -> None:
        self.__class__ = nn.Parameter  # type: ignore[assignment]


class Effective(Writing):
    """where(mask, W, 0), a plain tensor to torch (its results are none of these)."""

    # Else torch would ask this class at every operation, and leave its fused ones.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


# By the class of what is computed. `tmask.nn.mask.effective_shards` adds its own, once shards are met.
CLASSES: dict[type[Tensor], type[Writing]] = {Tensor: Effective}


def effective(value: Tensor, master: Tensor, values: Callable[[Tensor], Tensor], lost: Lost) -> Tensor:
    """The computed tensor, made one that hands writes on; as it is where torch only traces, or it is no plain one."""
    if not is_eager() or type(value) not in CLASSES or type(master) not in (type(value), nn.Parameter):
        return value
    value.__class__ = CLASSES[type(value)]
    value.__dict__["_origin"] = _Origin(master, values, lost, version=_version(value))
    return value


def _made(
    value: Tensor, origin: _Origin, parent: Tensor, view: Callable[[Tensor], Tensor], counts: bool = False
) -> Tensor:
    """A view of an effective weight, as one."""
    whole = parent if origin.whole is None else origin.whole
    value.__class__ = CLASSES[type(value)]
    version = _version(value) if counts else None
    value.__dict__["_origin"] = _Origin(origin.master, origin.values, origin.lost, whole, view, version)
    return value


def _version(tensor: Tensor) -> int | None:
    # Operators count in a DTensor; what is written past it, in its inner tensor.
    return None if tensor.is_inference() else tensor._version + _inner(tensor)._version


def _plain(tensor: Tensor) -> Tensor:
    """The same memory as a tensor of torch's own class."""
    return tensor.as_subclass(Tensor) if _inner(tensor) is tensor else Tensor.view_as(tensor, tensor)


@torch.no_grad()
def _refresh(tensor: Writing) -> None:
    """Bring a computed weight up to date with its master: whoever goes on with it reads what was written."""
    whole: Any = tensor if tensor._origin.whole is None else tensor._origin.whole
    origin = whole._origin
    Tensor.copy_(whole, origin.values(origin.master))
    origin.version = _version(whole)


def _writing(name: str) -> Callable[..., Any]:
    def write(self: Writing, *args: Any, **named: Any) -> Any:
        origin = self._origin
        target = origin.view(origin.master)
        getattr(target, name)(*args, **named)
        _refresh(self)
        return self

    return write


def _refusing(name: str) -> Callable[..., Any]:
    def refuse(self: Writing, *args: Any, **named: Any) -> Any:
        raise InvalidProblemError(
            f"{name} on the weight {tuple(self.shape)} of a masked layer: its shape and memory are the mask's too; "
            "export the model first"
        )

    return refuse


def _viewing(name: str) -> Callable[..., Any]:
    def look(self: Writing, *args: Any, **named: Any) -> Any:
        found = getattr(Tensor, name)(self, *args, **named)
        if isinstance(found, Tensor):
            return seen(self, found, lambda part: getattr(part, name)(*args, **named))
        return type(found)(
            seen(self, part, lambda whole, k=k: getattr(whole, name)(*args, **named)[k])  # type: ignore[misc]
            for k, part in enumerate(found)
        )

    return look


def seen(parent: Writing, found: Tensor, view: Callable[[Tensor], Tensor]) -> Tensor:
    """A view as an effective weight; a copy, as `reshape` and indices can give, as it is."""
    if found is parent or type(found) not in CLASSES or _memory(found) != _memory(parent):
        return found
    origin = parent._origin
    return _made(found, origin, parent, lambda master: view(origin.view(master)))


def _memory(tensor: Tensor) -> int:
    return _inner(tensor).untyped_storage().data_ptr()


def _inner(tensor: Tensor) -> Tensor:
    """What holds the numbers: of a DTensor, a tensor inside, which `to_local` would give as an effective one."""
    return getattr(tensor, "_local_tensor", tensor)


for _name in _WRITING - _OWN:
    setattr(Writing, _name, (_refusing if _name in _RESHAPING else _writing)(_name))
for _name in _VIEWING:
    setattr(Writing, _name, _viewing(_name))
for _name in ("T", "mT"):
    setattr(Writing, _name, property(lambda self, _name=_name: seen(  # type: ignore[misc]
        self, getattr(Tensor, _name).__get__(self), lambda part: getattr(part, _name)
    )))  # fmt: skip

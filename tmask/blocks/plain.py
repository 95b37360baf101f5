"""What counts as an array or a tensor: plain numbers in memory. Everything else is refused by its name, in one place.

torch is never imported here: a tensor can only come from a process that has imported it already.
"""

from __future__ import annotations

import sys
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from tmask.errors import InvalidProblemError


def is_tensor(array: object) -> bool:
    """Whether it is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def plain_tensor(tensor: Any, name: str) -> Any:
    """The tensor detached, and its sign flag resolved, on its device.

    Raises:
        InvalidProblemError: it is no dense tensor with data; the text says what it is.
    """
    if kind := _odd_kind(tensor):
        raise InvalidProblemError(f"{name} is {kind}; give a dense one, with data")
    return tensor.detach().resolve_neg()


def is_plain_array(array: object, name: str) -> TypeGuard[npt.NDArray[Any]]:
    """Whether it is a numpy array.

    Raises:
        InvalidProblemError: one with a mask of its own, which would be lost.
    """
    if not isinstance(array, np.ndarray):
        return False
    # By the attribute too: other libraries have arrays like numpy's.
    if isinstance(array, np.ma.MaskedArray) or hasattr(array, "mask"):
        raise InvalidProblemError(
            f"{name} is a {type(array).__name__}, whose own mask would be lost; give {name}.filled(0), in which masked "
            f"entries are zeros (keep_zeros=True never keeps those), or {name}.data"
        )
    return True


def _odd_kind(tensor: Any) -> str:
    """What a tensor is, if not plain numbers; the order matters, since most attributes raise on some of them."""
    torch = sys.modules["torch"]
    kind = type(tensor).__name__
    if isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
        return f"a {kind}, which has no shape yet (run the model once)"
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return "a tensor inside torch.func (vmap, grad, ...), which has no numbers of its own"
    # A subclass that computes in Python: what lies in its memory is not what it stands for.
    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return f"a {kind}, which stands for a tensor that is kept in another form"
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.is_meta:
        return "a meta tensor"
    return "" if tensor.layout == torch.strided else f"a {tensor.layout} tensor"

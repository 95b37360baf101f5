"""The public edge for arrays: numpy or torch in, checked numpy scores inside, the caller's kind out.

torch is never imported here: a tensor can only come from a process that has imported it already.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from tmask.blocks.plain import is_plain_array, is_tensor, plain_tensor
from tmask.errors import InvalidProblemError

Scores = npt.NDArray[np.floating[Any]]  # float32 or float64, >= 0 and finite
Masks = npt.NDArray[np.bool_]  # True = kept
Prices = npt.NDArray[np.float64]

_NARROW = ("float16", "bfloat16", "float32")


def to_scores(weight: Any, score: Any = None, *, name: str = "weight") -> Scores:
    """What is maximised: |weight|, or the given score, checked; float64 for float64 input, else float32.

    Args:
        weight: numpy array or torch tensor, float16, bfloat16, float32 or float64, any device.
        score: same shape, >= 0 and finite, or None for |weight|.
        name: what the texts of errors call the weight.
    Raises:
        InvalidProblemError: wrong dtype, shape or values; the text says where and how many.
    """
    values = to_numpy(weight, name)
    _check_finite(values, name)  # with a score, too: no mask makes such a weight usable
    if score is None:
        scores = np.abs(values)
    else:
        scores = to_numpy(score, "score")
        if scores.shape != values.shape:
            raise InvalidProblemError(f"score has shape {scores.shape}, but {name} has shape {values.shape}")
        _check_finite(scores, "score")
        if (scores < 0).any():
            _raise_at(scores < 0, "score", "negative values", "a score is an importance, at least 0")
        scores = np.abs(scores)  # -0.0 passes for a zero above, but its bits would not
    # What a mask keeps is no more than this, and so need not be looked at again.
    with np.errstate(over="ignore"):
        total = scores.sum(dtype=np.float64)
    if not np.isfinite(total):
        raise _overflow(name)
    return scores


def unusable(weight: Any, score: Any) -> InvalidProblemError:
    """The error that says why the sum of some scores is not finite; the arguments are those of `to_scores`."""
    try:
        to_scores(weight, score)
    except InvalidProblemError as error:
        return error
    return _overflow("weight")  # it depends on the order in which they are added


def magnitudes(values: npt.NDArray[Any]) -> Scores:
    """|values| of what `to_values` gave, as float32 or float64, perhaps not finite."""
    if values.dtype == np.uint16:  # bfloat16 is the upper half of float32
        values = np.left_shift(values, 16, dtype=np.uint32).view(np.float32)
    return np.asarray(np.abs(values), np.float64 if values.dtype.itemsize == 8 else np.float32)


def to_values(array: Any, name: str) -> npt.NDArray[Any]:
    """The array as numpy on the CPU, without a copy where it is there: a float dtype, or uint16 for bfloat16's bits.

    Raises:
        InvalidProblemError: not an array, not a dense one, or not of a floating dtype.
    """
    if is_tensor(array):
        # numpy has no bfloat16. Its bits go without a copy, and become numbers part by part (`parts.Stage`).
        torch = sys.modules["torch"]
        tensor = checked_tensor(array, name).cpu()
        if tensor.dtype == torch.bfloat16:
            return np.asarray(tensor.view(torch.int16).numpy()).view(np.uint16)
        return np.asarray(tensor.numpy())
    if is_plain_array(array, name):
        if array.dtype.name == "bfloat16":
            return np.asarray(array).view(np.uint16)  # no subclass: a matrix has two axes, whatever one does
        if array.dtype.name in ("float16", "float32", "float64"):
            return np.asarray(array)
    return to_numpy(array, name)


def to_numpy(array: Any, name: str) -> Scores:
    """The array as numpy float32 or float64, detached and on the CPU; (at least) the dtype is checked.

    Raises:
        InvalidProblemError: not an array, not a dense one, or not of a floating dtype.
    """
    if is_tensor(array):
        return _from_tensor(array, name)
    if not is_plain_array(array, name):
        raise InvalidProblemError(
            f"{name} is a {type(array).__name__}; give a numpy array or a torch tensor of a floating dtype"
        )
    dtype = array.dtype.name
    if dtype in _NARROW:
        return np.asarray(array, np.float32)
    if dtype == "float64":
        return np.asarray(array, np.float64)
    raise _dtype_error(name, dtype)


def _from_tensor(tensor: Any, name: str) -> Scores:
    tensor = checked_tensor(tensor, name).cpu()
    return np.asarray((tensor if str(tensor.dtype) == "torch.float64" else tensor.float()).numpy())


def checked_tensor(tensor: Any, name: str) -> Any:
    """The tensor, detached, if it is dense and of a floating dtype; raises InvalidProblemError if not."""
    tensor = plain_tensor(tensor, name)
    # By its text: torch's own dtypes are out of reach without an import.
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in (*_NARROW, "float64"):
        raise _dtype_error(name, dtype)
    return tensor


def like(mask: npt.NDArray[Any], array: Any) -> Any:
    """The numpy array as the other array's kind: itself, or a torch tensor on the same device."""
    if is_tensor(array):
        return sys.modules["torch"].from_numpy(np.ascontiguousarray(mask)).to(array.device)
    return mask


def to_mask(mask: Any) -> npt.NDArray[np.bool_]:
    """A mask from the user as numpy bool.

    Raises:
        InvalidProblemError: not an array, or not of dtype bool.
    """
    if not (is_tensor(mask) or is_plain_array(mask, "mask")):
        raise InvalidProblemError(f"mask is a {type(mask).__name__}; give a numpy array or a torch tensor")
    values = plain_tensor(mask, "mask") if is_tensor(mask) else mask
    dtype = str(values.dtype).removeprefix("torch.")
    if dtype != "bool":
        raise InvalidProblemError(f"mask has dtype {dtype}; it must be bool, True = kept (try mask != 0)")
    return np.asarray(values.cpu().numpy()) if is_tensor(mask) else values


def _overflow(name: str) -> InvalidProblemError:
    return InvalidProblemError(f"{name}: the sum of its scores overflows float64; scale it down first")


def _dtype_error(name: str, dtype: str) -> InvalidProblemError:
    return InvalidProblemError(
        f"{name} has dtype {dtype}; float16, bfloat16, float32 and float64 are supported (convert it first)"
    )


def _check_finite(values: Scores, name: str) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        nans = int(np.isnan(values).sum())
        _raise_at(bad, name, f"NaN or infinite values ({nans} NaN)", "masks need finite numbers")


def _raise_at(bad: npt.NDArray[np.bool_], name: str, what: str, advice: str) -> None:
    first = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
    raise InvalidProblemError(f"{name}: {int(bad.sum())} {what}, first at index {first}; {advice}")

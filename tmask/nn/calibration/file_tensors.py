"""Tensors of files as torch has them, calibration inputs among them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tmask.errors import FileFormatError
from tmask.files.opening import open_weights
from tmask.files.tensors import Tensor as FileTensor
from tmask.files.tensors import contents

# The ids of tokens, which a model looks up and must not get as floats.
_IDS = ("int64", "int32")


def to_torch(tensor: FileTensor) -> Tensor:
    """A file's tensor as torch has it, in the memory that it was read to where that can be written."""
    dtype = getattr(torch, tensor.dtype)
    if not tensor.bits.size:
        return torch.empty(tensor.shape, dtype=dtype)
    data = contents(tensor.bits)
    # The bytes of a mapped file cannot be written, and torch warns of such.
    return torch.frombuffer(bytearray(data) if data.readonly else data, dtype=dtype).reshape(tensor.shape)


def load_inputs(path: Path, key: str = "", count: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Calibration inputs, the samples along the first axis.

    Args:
        path: any format of `open_weights`.
        key: name of the tensor; "" where the file holds a single one.
        count: of samples to take from the start, 0 for all.
        dtype: of the model, to which floats are converted; int64 and int32 are the ids of tokens and become int64.
    Raises:
        FileFormatError: unreadable, no such tensor, several without a key, or one of another dtype.
    """
    file = open_weights(path)
    if not key and len(file.names) != 1:
        raise FileFormatError(f"{path} holds {', '.join(file.names)}; say which are the inputs with --key")
    found = file.read(key or file.names[0])
    if "float" not in found.dtype and found.dtype not in _IDS:
        raise FileFormatError(
            f"{path}: the inputs have dtype {found.dtype}; store them as the model reads them: normalised floats, or "
            f"the ids of tokens as {' or '.join(_IDS)}"
        )
    inputs = to_torch(found).to(torch.int64 if found.dtype in _IDS else dtype)
    if inputs.ndim < 2 or not len(inputs):
        raise FileFormatError(f"{path}: the inputs have shape {tuple(inputs.shape)}; give (samples, ...)")
    return inputs[:count] if count else inputs

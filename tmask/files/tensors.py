"""Tensors as files hold them: a dtype, a shape and bits, read without the library that wrote them."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tmask.blocks.arrays import Scores
from tmask.errors import FileFormatError

# safetensors' codes of the dtypes that numpy and torch share, by numpy's or torch's name.
CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "complex64": "C64",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2": "F8_E5M2",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
}
NAMES = {code: name for name, code in CODES.items()}
FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file.

    Args:
        dtype: numpy's or torch's name of it, a key of CODES.
        bits: (*shape) unsigned integers of the item's size, the raw contents.
    """

    dtype: str
    bits: npt.NDArray[np.unsignedinteger[Any]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.bits.shape

    def values(self) -> Scores:
        """As numpy floats; bfloat16 comes as float32, which holds it exactly.

        Raises:
            FileFormatError: not of a floating dtype that weights have.
        """
        if self.dtype not in FLOATS:
            raise FileFormatError(f"a tensor of dtype {self.dtype} holds no weights; {', '.join(FLOATS)} do")
        if self.dtype == "bfloat16":
            # bfloat16 is the upper half of a float32.
            return np.asarray((self.bits.astype(np.uint32) << np.uint32(16)).view(np.float32))
        return np.asarray(self.bits.view(self.dtype))

    def sha256(self) -> str:
        """Of dtype, shape and little-endian contents, in C order."""
        digest = begun_digest(self.dtype, self.shape)
        digest.update(contents(self.bits))
        return digest.hexdigest()


def begun_digest(dtype: str, shape: tuple[int, ...]) -> hashlib._Hash:
    """What a tensor's digest begins with; its contents are to be added."""
    return hashlib.sha256(f"{dtype} {list(shape)} ".encode())


def num_bytes(dtype: str) -> int:
    """Of one item: the number in its safetensors code is that of bits, and truth values have none."""
    bits = re.search(r"\d+", CODES[dtype])
    return int(bits[0]) // 8 if bits else 1


def contents(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of an array in C order; copied only where it is not contiguous."""
    # Flat first: numpy views no 0-D array as items of another size.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def from_bytes(data: Any, dtype: str, shape: tuple[int, ...]) -> Tensor:
    """From raw little-endian bytes.

    Raises:
        ValueError: a dtype that CODES does not have, such as those that pack several items in a byte; too few bytes.
    """
    if dtype not in CODES:
        raise ValueError(f"items of dtype {dtype} are not known, or are no whole bytes")
    count = math.prod(shape)
    return Tensor(dtype, np.frombuffer(data, np.dtype(f"<u{num_bytes(dtype)}"), count).reshape(shape))


def from_numpy(array: npt.NDArray[Any]) -> Tensor:
    """From a numpy array of either byte order.

    Raises:
        ValueError: text, objects, records, or numbers of a size that no weight file has.
    """
    dtype = array.dtype.name
    if dtype not in CODES:
        raise ValueError(f"dtype {dtype}")
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return Tensor(dtype, little.view(f"<u{array.dtype.itemsize}"))


def from_torch(tensor: Any) -> Tensor:
    """From a dense torch tensor on the CPU.

    Raises:
        ValueError: sparse, quantised, or without contents.
    """
    import torch

    dtype = torch_dtype(tensor)
    if dtype not in CODES:
        raise ValueError(f"dtype {dtype}")
    # torch conjugates and negates by setting a flag, and gives no bytes while it is set.
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().flatten()
    raw = flat.view(torch.uint8).numpy() if tensor.numel() else np.zeros(0, np.uint8)
    return from_bytes(raw, dtype, tuple(tensor.shape))


def torch_dtype(tensor: Any) -> str:
    """The dtype's name; one that CODES does not have if the tensor is more than a dense array of it."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_nested:
        return f"nested {dtype}"
    layout = str(tensor.layout).removeprefix("torch.")
    if layout != "strided":
        return f"{layout} {dtype}"
    return dtype if tensor.device.type == "cpu" else f"{tensor.device.type} {dtype}"

"""Tensors as files hold them: a dtype, a shape and bits, read without the library that wrote them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tmask.arrays import Scores
from tmask.errors import FileFormatError

# safetensors' codes of the dtypes that numpy and torch share, and bytes an item.
CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
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
    "float8_e5m2": "F8_E5M2",
}
NAMES = {code: name for name, code in CODES.items()}
FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file.

    Args:
        dtype: numpy's or torch's name of it.
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
            return np.asarray((self.bits.astype(np.uint32) << 16).view(np.float32))
        return np.asarray(self.bits.view(self.dtype))

    def sha256(self) -> str:
        """Of dtype, shape and little-endian contents."""
        digest = hashlib.sha256(f"{self.dtype} {list(self.shape)} ".encode())
        digest.update(np.ascontiguousarray(self.bits).tobytes())
        return digest.hexdigest()


def from_bytes(data: Any, dtype: str, shape: tuple[int, ...], itemsize: int) -> Tensor:
    """From raw little-endian bytes."""
    return Tensor(dtype, np.frombuffer(data, np.dtype(f"<u{itemsize}")).reshape(shape))


def from_numpy(array: npt.NDArray[Any]) -> Tensor:
    """From a numpy array; complex and text are named, but have no bits that anything here reads."""
    array = np.ascontiguousarray(array)
    dtype = array.dtype.name
    if dtype not in CODES:
        return Tensor(dtype, np.zeros(array.shape, np.uint8))
    return Tensor(dtype, array.astype(array.dtype.newbyteorder("<"), copy=False).view(f"<u{array.dtype.itemsize}"))


def from_torch(tensor: Any) -> Tensor:
    """From a dense torch tensor on the CPU."""
    torch = __import__("torch")
    tensor = tensor.detach().contiguous()
    raw = tensor.flatten().view(torch.uint8).numpy() if tensor.numel() else np.zeros(0, np.uint8)
    return from_bytes(raw.tobytes(), str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), tensor.itemsize)

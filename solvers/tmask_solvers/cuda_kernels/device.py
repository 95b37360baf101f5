"""Tensors, streams and launches on a CUDA device, for kernels that numba compiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numba.cuda
import numpy as np
import torch
from torch import Tensor

from tmask_solvers.cuda_kernels.lines import WARP


@dataclass(frozen=True)
class Device:
    """A CUDA device at work.

    Args:
        cuda: the module numba.cuda.
        stream: numba's name for PyTorch's current stream.
        processors: its number of multiprocessors.
        least: blocks of any launch. Those that find no work cost little, and numba warns of fewer.
    """

    cuda: Any
    stream: Any
    processors: int
    least: int = 128

    def array(self, tensor: Tensor) -> Any:
        """The tensor's memory as an array that kernels take, without a copy; bfloat16 as int16."""
        # The interface through which arrays change hands has no name for bfloat16.
        bits = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
        return self.cuda.as_cuda_array(bits, sync=False)  # its stream is the one that kernels are launched on

    def launch(self, kernel: Any, warps: int, per_processor: int, *arguments: Any) -> None:
        """Start blocks of a warp each, about as many as `warps`, but no more than the device should have at once; the
        kernel goes on to further work by itself."""
        blocks = max(self.least, min(warps, per_processor * self.processors))
        kernel[blocks, WARP, self.stream](*arguments)


@contextmanager
def on_device(device: torch.device) -> Iterator[Device]:
    """Make a device current for PyTorch and numba."""
    cuda: Any = numba.cuda  # which has no types
    with torch.cuda.device(device), cuda.gpus[torch.cuda.current_device()]:
        # PyTorch's stream, so that kernels come after what made the tensors, with nobody waiting for it.
        stream = cuda.external_stream(torch.cuda.current_stream().cuda_stream)
        yield Device(cuda, stream, cuda.get_current_device().MULTIPROCESSOR_COUNT)


def magnitude_of(dtype: torch.dtype) -> Any:
    """Function from an entry of a tensor, as `Device.array` gives it, to its magnitude as float32 or float64."""
    return {torch.bfloat16: _of_bfloat16, torch.float16: _of_float16}.get(dtype, _of_real)


def _of_real(x: Any) -> Any:
    return abs(x)


def _of_float16(x: Any) -> Any:
    return abs(np.float32(x))


def _of_bfloat16(x: Any) -> Any:
    """bfloat16 is the upper half of float32."""
    return np.uint32(np.uint32(x & 0x7FFF) << np.uint32(16)).view(np.float32)

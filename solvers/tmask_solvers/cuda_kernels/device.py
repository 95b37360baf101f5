"""Tensors, streams and launches on a CUDA device, for kernels that numba compiles."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numba.cuda
import numpy as np
import torch
from torch import Tensor

from tmask_solvers.cuda_kernels.direct import Driver, start
from tmask_solvers.cuda_kernels.lines import WARP

log = logging.getLogger("tmask")


@dataclass(frozen=True)
class Device:
    """A CUDA device at work.

    Args:
        cuda: the module numba.cuda.
        stream: PyTorch's current stream, as an address.
        processors: its number of multiprocessors.
        driver: starts kernels directly; None for numba's launcher.
        capability: compute capability.
        least: blocks of any launch. Those that find no work cost little, and numba warns of fewer.
    """

    cuda: Any
    stream: int
    processors: int
    driver: Driver | None = None
    capability: tuple[int, int] = (0, 0)
    least: int = 128
    _arrays: dict[int, tuple[Tensor, Any]] = field(default_factory=dict, repr=False)

    def launch(self, name: str, kernel: Any, warps: int, per_processor: int, *arguments: Tensor | int) -> None:
        """Start blocks of a warp each, about as many as `warps`, but no more than the device should have at once; the
        kernel goes on to further work by itself.

        Args:
            name: of the kernel with its n, m and dtype.
            kernel: what `cuda.jit` made of it.
        """
        blocks = max(self.least, min(warps, per_processor * self.processors))
        if self.driver is None or _refused:
            self._launch_by_numba(kernel, blocks, arguments)
            return
        try:
            start(self.driver, name, kernel, self.capability, blocks, self.stream, arguments, numba_at)
        except Exception as error:  # the libraries' own errors, of many types; nothing was started
            _refuse(f"{type(error).__name__}: {' '.join(str(error).split())}")
            self._launch_by_numba(kernel, blocks, arguments)

    def _launch_by_numba(self, kernel: Any, blocks: int, arguments: tuple[Tensor | int, ...]) -> None:
        given = [self._array(x) if isinstance(x, Tensor) else x for x in arguments]
        with numba_at(self.cuda):
            kernel[blocks, WARP, self.cuda.external_stream(self.stream)](*given)

    def _array(self, tensor: Tensor) -> Any:
        """The tensor's memory as an array that numba's launcher takes, without a copy; bfloat16 as int16."""
        if id(tensor) not in self._arrays:
            # The interface through which arrays change hands has no name for bfloat16.
            bits = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
            # Its stream is the one that kernels are launched on, so there is nothing to wait for.
            self._arrays[id(tensor)] = tensor, self.cuda.as_cuda_array(bits, sync=False)
        return self._arrays[id(tensor)][1]


# Why kernels are not started directly in this process, once that has failed.
_refused: list[str] = []


def _refuse(problem: str) -> None:
    _refused.append(problem)
    log.warning(
        "CUDA kernels are launched by numba-cuda, which takes some 0.6 ms a call, since the direct way failed (%s)",
        problem,
    )


@contextmanager
def on_device(device: torch.device) -> Iterator[Device]:
    """Make a device current for PyTorch, whose stream kernels come on: after what made the tensors, with nobody
    waiting for it."""
    cuda: Any = numba.cuda  # which has no types
    with torch.cuda.device(device):
        processors, capability = _properties(torch.cuda.current_device())
        yield Device(cuda, torch.cuda.current_stream().cuda_stream, processors, Driver(), capability)


@cache
def _properties(index: int) -> tuple[int, tuple[int, int]]:
    found = torch.cuda.get_device_properties(index)
    return found.multi_processor_count, (found.major, found.minor)


def numba_at(cuda: Any) -> AbstractContextManager[Any]:
    """PyTorch's current device made current for numba, which compiles and launches there."""
    place: AbstractContextManager[Any] = cuda.gpus[torch.cuda.current_device()]
    return place


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

"""Streams and launches on a CUDA device, for kernels that numba compiles, and that do not need numba from then on."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tmask_solvers.cuda_kernels.code.kernels import Kernel
from tmask_solvers.cuda_kernels.code.lines import WARP
from tmask_solvers.cuda_kernels.direct import Argument, Driver, Launch, prepared

log = logging.getLogger("tmask")

Started = tuple[Launch, tuple[Argument, ...]]


@dataclass(frozen=True)
class Device:
    """A CUDA device at work.

    Args:
        stream: PyTorch's current stream, as an address.
        processors: its number of multiprocessors.
        driver: starts kernels directly; None for numba's launcher.
        cuda: what numba's launcher and compiler are taken from; None for numba.cuda, once it is needed.
        capability: compute capability.
        least: blocks of any launch. Those that find no work cost little, and numba warns of fewer.
        started: what was launched directly, with its arguments.
    """

    stream: int
    processors: int
    driver: Driver | None = None
    cuda: Any = None
    capability: tuple[int, int] = (0, 0)
    least: int = 128
    started: list[Started] = field(default_factory=list, repr=False)
    _arrays: dict[int, tuple[Tensor, Any]] = field(default_factory=dict, repr=False)

    def launch(self, kernel: Kernel, warps: int, per_processor: int, *arguments: Argument) -> None:
        """Start blocks of a warp each, about as many as `warps`, but no more than the device should have at once; the
        kernel goes on to further work by itself."""
        self.launch_exactly(kernel, max(self.least, min(warps, per_processor * self.processors)), *arguments)

    def launch_exactly(self, kernel: Kernel, blocks: int, *arguments: Argument) -> None:
        """Start so many blocks of a warp each."""
        if self.driver is None or _refused:
            self._launch_by_numba(kernel, blocks, arguments)
            return
        try:
            launch = prepared(self.driver, kernel, self.capability, blocks, arguments, self._numba)
            self.driver.launch(launch.code, launch.blocks, self.stream, launch.numbers)
        except Exception as error:  # the libraries' own errors, of many types; nothing was started
            _refuse(f"{type(error).__name__}: {' '.join(str(error).split())}")
            self._launch_by_numba(kernel, blocks, arguments)
        else:
            self.started.append((launch, arguments))

    def start_again(self, launches: Iterable[Launch]) -> bool:
        """Start what was started before, with other addresses; False where that fails, some perhaps started."""
        if self.driver is None or _refused:
            return False
        try:
            for launch in launches:
                self.driver.launch(launch.code, launch.blocks, self.stream, launch.numbers)
        except Exception as error:  # as above
            log.debug("a launch that had gone well before failed: %s", error)
            return False
        return True

    @contextmanager
    def _numba(self) -> Iterator[Any]:
        """numba.cuda, with PyTorch's current device made current for it."""
        cuda = numba_cuda() if self.cuda is None else self.cuda
        with numba_at(cuda):
            yield cuda

    def _launch_by_numba(self, kernel: Kernel, blocks: int, arguments: tuple[Argument, ...]) -> None:
        with self._numba() as cuda:
            given = [self._array(cuda, x) if isinstance(x, Tensor) else x for x in arguments]
            kernel.build(cuda)[blocks, WARP, cuda.external_stream(self.stream)](*given)

    def _array(self, cuda: Any, tensor: Tensor) -> Any:
        """The tensor's memory as an array that numba's launcher takes, without a copy; bfloat16 as int16."""
        if id(tensor) not in self._arrays:
            # The interface through which arrays change hands has no name for bfloat16.
            bits = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
            # Its stream is the one that kernels are launched on, so there is nothing to wait for.
            self._arrays[id(tensor)] = tensor, cuda.as_cuda_array(bits, sync=False)
        return self._arrays[id(tensor)][1]


_DRIVER = Driver()

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
    # Only where it is another one: to enter what is there already takes as long as a launch.
    other = device.index is not None and device.index != torch.cuda.current_device()
    with torch.cuda.device(device) if other else nullcontext():
        index = torch.cuda.current_device()
        processors, capability = properties(index)
        yield Device(raw_stream(index), processors, _DRIVER, capability=capability)


def raw_stream(index: int) -> int:
    """PyTorch's current stream on a device, as an address."""
    # By torch's compiler's own way where it is there, which makes no object of it.
    if quick := getattr(torch._C, "_cuda_getCurrentRawStream", None):
        return int(quick(index))
    return int(torch.cuda.current_stream(index).cuda_stream)


@cache
def properties(index: int) -> tuple[int, tuple[int, int]]:
    """Multiprocessors, and compute capability."""
    found = torch.cuda.get_device_properties(index)
    return found.multi_processor_count, (found.major, found.minor)


def to_device(table: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, with nobody waiting for what is under way there."""
    # From pinned memory alone does torch copy in the order of the stream.
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


def numba_cuda() -> Any:
    """The module numba.cuda, which takes a third of a second to load; has no types."""
    return importlib.import_module("numba.cuda")


def numba_at(cuda: Any) -> AbstractContextManager[Any]:
    """PyTorch's current device made current for numba, which compiles and launches there."""
    place: AbstractContextManager[Any] = cuda.gpus[torch.cuda.current_device()]
    return place

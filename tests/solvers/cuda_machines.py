"""Where the tests of `midpoint-cuda` run: on a simulated warp everywhere, and on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import pytest
import torch

from tests.warp_simulator import Memory, SimulatedCuda
from tmask.solving.registry import solver_infos
from tmask_solvers import midpoint_cuda
from tmask_solvers.cuda_kernels import device as device_module
from tmask_solvers.cuda_kernels import judging, launch, one_matrix, repeating
from tmask_solvers.cuda_kernels.code import places
from tmask_solvers.cuda_kernels.device import Device
from tmask_solvers.cuda_kernels.repeating import Repeats
from tmask_solvers.midpoint_cuda import MidpointCuda


@dataclass
class Machine:
    """A device to put tensors on, and the solver that takes them there."""

    device: str

    def solver(self, **settings) -> MidpointCuda:
        return MidpointCuda(**settings)


def why_no_gpu() -> str:
    """Why the tests on a GPU are skipped, or ""."""
    missing = next(info.missing for info in solver_infos() if info.name == "midpoint-cuda")
    if missing:
        return f"needs {', '.join(missing)}"
    return "" if torch.cuda.is_available() else "PyTorch finds no GPU"


def pretend(monkeypatch: pytest.MonkeyPatch, on_device) -> None:
    """Launch on another device than the one at hand, in a process that remembers no call."""
    for module in (launch, judging, repeating):
        monkeypatch.setattr(module, "on_device", on_device)
    for module in (judging, one_matrix):
        monkeypatch.setattr(module, "_calls", Repeats())


def simulate(monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> SimulatedCuda:
    """Let the solver run on tensors on the CPU, by a simulated warp."""
    cuda = SimulatedCuda(seed)
    known: list[tuple[int, int]] = []
    entries_between = places.entries_between

    def noted(origin: torch.Tensor, tensor: torch.Tensor) -> int:
        memory = tensor.untyped_storage()
        known.append((memory.data_ptr(), memory.nbytes()))
        return entries_between(origin, tensor)

    def as_array(tensor: torch.Tensor, sync: bool) -> object:
        if tensor.shape != (1,):
            return tensor.numpy()
        memory = tensor.untyped_storage()
        return Memory(tensor, [*known, (memory.data_ptr(), memory.nbytes())])

    for module in (places, judging):
        monkeypatch.setattr(module, "entries_between", noted)
    cuda.as_cuda_array = as_array

    @contextmanager
    def on_device(device: torch.device) -> Iterator[Device]:
        yield Device(0, processors=1, cuda=cuda, least=1)

    pretend(monkeypatch, on_device)
    monkeypatch.setattr(device_module, "numba_at", lambda cuda: nullcontext())
    cuda.external_stream = lambda stream: None
    monkeypatch.setattr(midpoint_cuda, "require_gpu", lambda solver: None)
    monkeypatch.setattr(MidpointCuda, "device_types", ("cpu",))
    monkeypatch.setattr(judging, "takes", lambda device_type, side: side <= 32)
    # Few warps, so that each of them goes on to further tiles.
    monkeypatch.setattr(launch, "_MANY", 2)
    monkeypatch.setattr(launch, "_FEW", 2)
    monkeypatch.setattr(judging, "SHARES", 3)
    return cuda

"""Where the tests of `midpoint-cuda` run: on a simulated warp everywhere, and on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import pytest
import torch

from tests.warp_simulator import SimulatedCuda
from tmask.solving.registry import solver_infos
from tmask_solvers import midpoint_cuda
from tmask_solvers.cuda_kernels import device as device_module
from tmask_solvers.cuda_kernels import launch
from tmask_solvers.cuda_kernels.device import Device
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


def simulate(monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> SimulatedCuda:
    """Let the solver run on tensors on the CPU, by a simulated warp."""
    cuda = SimulatedCuda(seed)
    cuda.as_cuda_array = lambda tensor, sync: tensor.numpy()

    @contextmanager
    def on_device(device: torch.device) -> Iterator[Device]:
        yield Device(cuda, 0, processors=1, least=1)

    monkeypatch.setattr(launch, "on_device", on_device)
    monkeypatch.setattr(device_module, "numba_at", lambda cuda: nullcontext())
    cuda.external_stream = lambda stream: None
    monkeypatch.setattr(midpoint_cuda, "require_gpu", lambda solver: None)
    monkeypatch.setattr(MidpointCuda, "device_types", ("cpu",))
    # Few warps, so that each of them goes on to further tiles.
    monkeypatch.setattr(launch, "_MANY", 2)
    monkeypatch.setattr(launch, "_FEW", 2)
    return cuda

"""What is compiled ahead of the parts for a GPU: all that calls ask for; by real compilers where they are."""

from __future__ import annotations

import itertools
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

import torch

from bench import gpu_compile
from bench.gpu_kernels import types_of
from tests.solvers.cuda_machines import pretend, simulate
from tests.solvers.test_cuda_code import why_not
from tmask.blocks.pattern import Pattern
from tmask.errors import TmaskError
from tmask.solving.devices import solve_many_on_device
from tmask.solving.request import Request
from tmask_solvers.cuda_kernels import device as device_module
from tmask_solvers.cuda_kernels import direct
from tmask_solvers.cuda_kernels.code.kernels import Kernel
from tmask_solvers.cuda_kernels.device import Device
from tmask_solvers.cuda_kernels.direct import Launch
from tmask_solvers.midpoint_cuda import MidpointCuda

PATTERNS = [Pattern(2, 4), Pattern(4, 8)]
DTYPES = ["float32", "bfloat16"]


def test_calls_ask_for_no_others_and_for_all_of_them(monkeypatch):
    simulate(monkeypatch)
    asked = set()

    def prepared(driver, kernel, capability, blocks, arguments, numba):
        asked.add((kernel.name, tuple(map(direct._type_name, arguments))))
        return Launch(None, blocks, [])

    @contextmanager
    def on_device(device):
        yield Device(0, 1, SimpleNamespace(launch=lambda *_: None), capability=(9, 0))

    monkeypatch.setattr(device_module, "prepared", prepared)
    pretend(monkeypatch, on_device)
    for pattern, dtype, number in itertools.product(PATTERNS, DTYPES, (1, 2)):
        request = Request(torch.ones((16, 16), dtype=getattr(torch, dtype)), pattern, MidpointCuda(), certify=False)
        with suppress(TmaskError):  # nobody has written masks and figures
            solve_many_on_device([request] * number)
    made = [
        (kernel.name, tuple(types_of(kernel.kind, dtype, kernel.many)))
        for kernel, dtype in gpu_compile.kernels(PATTERNS, DTYPES)
    ]
    assert len(made) == len(set(made)) == 24
    assert set(made) == asked


def test_a_kernel_is_left_on_disk_for_other_processes(monkeypatch, tmp_path):
    if reason := why_not():
        pytest.skip(reason)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    kernel = Kernel("judge", 2, 4, torch.bfloat16)
    gpu_compile.compile_kernel(kernel, "bfloat16", (9, 0))
    (path,) = tmp_path.rglob("*.cubin")
    assert path.name.startswith("judge-2-4-bfloat16-")


def test_a_kernel_that_fails_is_named_and_the_others_are_made(monkeypatch, capfd):
    """In processes of their own, which find no compilers under this name."""
    monkeypatch.setattr(gpu_compile, "kernels", lambda *_: [(Kernel("no such kind", 2, 4, torch.float32), "float32")])
    assert gpu_compile.compile_all([Pattern(2, 4)], ["float32"], (9, 0)) == 1
    out = capfd.readouterr().out
    assert "no such kind-2-4-float32: KeyError" in out
    assert "midpoint 2:4: " in out


def test_a_dry_run_names_them(capsys):
    gpu_compile.main("2:4", "float32", dry_run=True)
    assert capsys.readouterr().out.split() == [
        "paths-2-4-float32", "paths-2-4-float32-many", "closed-2-4-float32-packed", "closed-2-4-float32-many-packed",
        "tally-2-4-float32", "tally-2-4-float32-many",
    ]  # fmt: skip

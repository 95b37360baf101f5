"""What `midpoint-cuda` says of machines and tensors that it cannot use; machines are pretended."""

from __future__ import annotations

import importlib.metadata
import logging
import subprocess
import sys
import textwrap
import tomllib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tmask
from tests.solvers.cuda_machines import simulate
from tmask.solving import entry as solver_entry
from tmask.solving import registry
from tmask.solving.registry import device_solver, get_solver
from tmask_solvers import midpoint_cuda
from tmask_solvers.cuda_kernels import usable
from tmask_solvers.midpoint_cuda import MidpointCuda


@pytest.fixture(autouse=True)
def afresh(monkeypatch, tmp_path):
    """Nothing that was found out, kept or said by another test."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    usable._problem_of_numba.cache_clear()
    registry._say_once.cache_clear()
    yield
    monkeypatch.undo()
    usable._problem_of_numba.cache_clear()
    registry._say_once.cache_clear()


def pretend_torch(monkeypatch, cuda="13.0", available=True, init_error=None):
    """A torch for this CUDA, which finds a GPU or fails with this error."""

    def init():
        if init_error:
            raise RuntimeError(init_error)

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "init", init)


def pretend_numba(monkeypatch, error=None):
    """A GPU, for which numba-cuda compiles kernels or fails with this error. Returns how often it has tried."""
    tries = []

    def jit(signature):
        def compile(kernel):
            tries.append(signature)
            if error:
                raise error

        return compile

    pretend_torch(monkeypatch)
    monkeypatch.setattr(usable, "numba_at", lambda cuda: nullcontext())
    monkeypatch.setattr(usable, "properties", lambda index: (1, (9, 0)))
    monkeypatch.setattr(usable, "numba_cuda", lambda: SimpleNamespace(jit=jit))
    return tries


def why_not() -> str:
    with pytest.raises(tmask.SolverUnavailableError) as caught:
        MidpointCuda()
    return str(caught.value)


@pytest.mark.parametrize(
    ("cuda", "error", "says"),
    [
        (None, None, "it is built without CUDA; install a build with it"),
        (
            "13.0",
            "Found no NVIDIA driver on your system. Please check that you have one",
            "Found no NVIDIA driver on your",
        ),
        (
            "13.0",
            "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver\n\nmore",
            r"too old \(found version 11040\). Please update your GPU driver; solver 'midpoint' runs on any CPU",
        ),
        ("13.0", None, "nothing says why"),
    ],
)
def test_without_a_gpu_for_torch_it_says_why_and_what_to_do(monkeypatch, cuda, error, says):
    pretend_torch(monkeypatch, cuda, available=False, init_error=error)
    with pytest.raises(tmask.SolverUnavailableError, match=says):
        MidpointCuda()


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (AttributeError("module 'numpy' has no attribute 'row_stack'"), 'run: pip install "numpy<2.5"'),
        (RuntimeError('Failure finding "libnvrtc.so.13"'), 'run: pip install "tmask[cuda]", or "tmask[cuda12]"'),
        (
            RuntimeError("[222] CUDA_ERROR_UNSUPPORTED_PTX_VERSION"),
            "the driver may be older than numba-cuda's compilers",
        ),
        (ImportError("Error at driver init: \n\nCUDA driver library cannot be found"), "driver may be older"),
        (RuntimeError("something new:"), "RuntimeError, something new; solver"),
    ],
)
def test_where_numba_cannot_compile_it_says_why_and_what_to_do(monkeypatch, error, cure):
    tries = pretend_numba(monkeypatch, error)
    text = why_not()
    assert cure in text
    assert f"numba-cuda {importlib.metadata.version('numba-cuda')} cannot compile here: {type(error).__name__}" in text
    assert "solver 'midpoint-torch' runs on a GPU without it" in text
    assert why_not() == text
    assert len(tries) == 1, "tried once in a process"


def test_a_machine_that_works_is_tried_once(monkeypatch):
    tries = pretend_numba(monkeypatch)
    MidpointCuda(prices=False)
    MidpointCuda()
    usable._problem_of_numba.cache_clear()  # as in a process to come, which finds on disk that it works
    MidpointCuda()
    assert tries == ["void()"]


def test_a_numpy_that_numba_cannot_load_is_found_before_any_gpu_is_needed():
    """The library itself, with what numpy 2.5 removed taken away, in a process of its own."""
    code = """
        import contextlib, types, warnings
        import numpy, torch
        warnings.simplefilter("ignore")
        if hasattr(numpy, "row_stack"):
            del numpy.row_stack
        torch.version.cuda, torch.cuda.is_available, torch.cuda.current_device = "13.0", lambda: True, lambda: 0
        from tmask_solvers.cuda_kernels import usable
        usable.numba_at = lambda cuda: contextlib.nullcontext()
        usable.properties = lambda index: (1, (9, 0))
        import numba.cuda.dispatcher
        numba.cuda.dispatcher.get_current_device = lambda: types.SimpleNamespace(compute_capability=(9, 0))
        print(usable._problem_of_numba())
    """
    run = [sys.executable, "-c", textwrap.dedent(code)]
    found = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    if "row_stack" not in found:
        pytest.skip("this numba-cuda does without")
    assert 'run: pip install "numpy<2.5"' in found


def test_the_extras_bound_numpy():
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert "numpy<2.5" in extras["cuda"]
    assert "numpy<2.5" in extras["cuda12"]


def test_arrays_and_tensors_elsewhere_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(midpoint_cuda, "require_gpu", lambda solver: None)
    solver, on_cpu = MidpointCuda(), torch.ones(1, 1, 8, 8)
    masks = torch.empty(on_cpu.shape, dtype=torch.bool)
    with pytest.raises(tmask.InvalidProblemError, match="'midpoint-cuda' takes tensors on cuda, not on cpu; move it"):
        solver.solve_tensor(on_cpu[0], 2)
    with pytest.raises(tmask.InvalidProblemError, match="takes tensors on cuda, not on meta"):
        solver.solve_matrices(on_cpu.to("meta"), 2, 4, masks)
    with pytest.raises(tmask.InvalidProblemError, match="takes torch tensors on cuda, not ndarray"):
        solver.solve_tensor(np.ones((1, 4, 4)), 2)
    with pytest.raises(tmask.InvalidProblemError, match="takes torch tensors on cuda, not ndarray"):
        solver.solve_matrices(np.ones((1, 1, 8, 8)), 2, 4, masks.numpy())


def test_weights_and_masks_lie_on_one_device(monkeypatch):
    simulate(monkeypatch)
    monkeypatch.setattr(MidpointCuda, "device_types", ("cpu", "meta"))
    with pytest.raises(
        tmask.InvalidProblemError, match="weights are on cpu, but masks on meta; put both on one device"
    ):
        MidpointCuda().solve_matrices(torch.ones(1, 1, 8, 8), 2, 4, torch.ones(1, 1, 8, 8, device="meta").bool())


@pytest.fixture
def driver(monkeypatch):
    """A driver is installed, whatever else."""
    monkeypatch.setattr(solver_entry, "_has_driver", lambda: True)


def test_auto_takes_it_first_on_cuda_alone(monkeypatch, driver):
    pretend_numba(monkeypatch)
    assert device_solver("cuda", 8).name == "midpoint-cuda"
    assert device_solver("cuda", 64).name == "midpoint-torch"  # a side that it does not take
    assert device_solver("xpu", 8).name == "midpoint-torch"


def test_auto_falls_back_where_numba_cannot_compile_and_says_so_once(monkeypatch, driver, caplog):
    pretend_numba(monkeypatch, AttributeError("module 'numpy' has no attribute 'row_stack'"))
    with caplog.at_level(logging.INFO, "tmask"):
        found = [device_solver("cuda", side).name for side in (4, 8, 16)]
    assert found == ["midpoint-torch"] * 3
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "'auto' passes over a solver: solver 'midpoint-cuda'" in record.message
    assert 'pip install "numpy<2.5"' in record.message


def test_auto_falls_back_where_it_is_not_installed_and_says_so_once(monkeypatch, driver, caplog):
    entry = registry.Entry("midpoint_cuda:MidpointCuda", ("torch", "no_such_library"), "cuda", gpu=True)
    monkeypatch.setitem(registry.BUILTIN, "midpoint-cuda", entry)
    with caplog.at_level(logging.INFO, "tmask"):
        assert device_solver("xpu", 8).name == "midpoint-torch"
        assert not caplog.records, "it is for NVIDIA GPUs alone"
        found = [device_solver("cuda", 8).name, device_solver("cuda", 8).name]
    assert found == ["midpoint-torch"] * 2
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "'midpoint-cuda', which lacks no_such_library" in record.message


def test_what_breaks_while_it_is_imported_is_an_error_by_name(monkeypatch):
    def broken(name):
        raise AttributeError("module 'numpy' has no attribute 'gone'")

    monkeypatch.setattr(solver_entry, "_has_driver", lambda: True)
    monkeypatch.setattr(registry.importlib, "import_module", broken)
    with pytest.raises(tmask.SolverUnavailableError, match="its library cannot be loaded: module 'numpy' has no"):
        get_solver("midpoint-cuda")

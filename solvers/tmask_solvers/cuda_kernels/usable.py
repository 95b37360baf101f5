"""Whether PyTorch and numba-cuda can use the GPU at hand, and what to do where they cannot."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor

from tmask.errors import InvalidProblemError, SolverUnavailableError
from tmask_solvers.cuda_kernels import cubins
from tmask_solvers.cuda_kernels.cubins import Cubin, CubinKey
from tmask_solvers.cuda_kernels.device import numba_at, numba_cuda, properties


def require_gpu(solver: str) -> None:
    """Return if PyTorch can use an NVIDIA GPU and numba-cuda can compile for it.

    Raises:
        SolverUnavailableError: one of them cannot; the text says why, and what to do.
    """
    if problem := _problem_of_torch():
        raise SolverUnavailableError(
            f"solver {solver!r} needs an NVIDIA GPU that PyTorch can use, and torch {torch.__version__} finds none: "
            f"{problem}; solver 'midpoint' runs on any CPU"
        )
    if problem := _problem_of_numba():
        raise SolverUnavailableError(
            f"solver {solver!r}: numba-cuda {version('numba-cuda')} cannot compile here: {problem}; solver "
            "'midpoint-torch' runs on a GPU without it"
        )


def works_here() -> bool:
    """Whether `require_gpu` would return."""
    return not _problem_of_torch() and not _problem_of_numba()


def require_tensors(solver: str, device_types: tuple[str, ...], *tensors: Tensor) -> None:
    """Return if these are tensors on one device, of a type that the solver takes.

    Raises:
        InvalidProblemError: they are not; the text names what they are, and where.
    """
    where = " or ".join(device_types)
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise InvalidProblemError(
                f"solver {solver!r} takes torch tensors on {where}, not {type(tensor).__name__}; tmask.solve and "
                "Solver.solve take arrays too"
            )
        if tensor.device.type not in device_types:
            raise InvalidProblemError(
                f"solver {solver!r} takes tensors on {where}, not on {tensor.device}; move it there, or let "
                "tmask.solve choose a solver"
            )
        if tensor.device != tensors[0].device:
            raise InvalidProblemError(
                f"solver {solver!r}: weights are on {tensors[0].device}, but masks on {tensor.device}; put both on one "
                "device"
            )


def _problem_of_torch() -> str:
    """Why PyTorch finds no NVIDIA GPU, or ""."""
    if torch.version.cuda is None:
        return "it is built without CUDA; install a build with it, as https://pytorch.org/get-started says"
    if torch.cuda.is_available():
        return ""
    try:
        # It fails, and tells a missing driver from one that is too old.
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except Exception as error:
        first, *_ = (*str(error).strip().splitlines(), "")
        return first.rstrip(".")
    return "torch.cuda.is_available() is false, and nothing says why"


@cache
def _problem_of_numba() -> str:
    """Why numba-cuda cannot compile and load an empty kernel on the current device, or ""; tried once in a process.

    An empty kernel needs what any kernel needs: numba's own imports, NVIDIA's compilers, and a driver that knows what
    they write. That it was compiled is kept like a kernel, under the same sources and versions: to load numba again
    takes longer than to load kernels that are kept, which do without it.
    """
    key = CubinKey("nothing", (), properties(torch.cuda.current_device())[1])
    if cubins.read(key) is not None:
        return ""
    try:
        cuda = numba_cuda()
        with numba_at(cuda):
            cuda.jit("void()")(_nothing)
    except Exception as error:  # the libraries' own errors, of many types
        return f"{type(error).__name__}, {' '.join(str(error).split()).rstrip(' .:')}{_cure(str(error))}"
    cubins.write(key, Cubin("nothing", 0, b""))
    return ""


def _nothing() -> None:
    """The empty kernel."""


def _cure(error: str) -> str:
    """What to do about an error of numba-cuda, as a clause, or "" where its text alone must do."""
    if "numpy" in error:
        return f' (it does not know numpy {np.__version__}; run: pip install "numpy<2.5")'
    if re.search("nvrtc|nvvm|libdevice|nvjitlink", error, re.IGNORECASE):
        return ' (NVIDIA\'s compilers are missing; run: pip install "tmask[cuda]", or "tmask[cuda12]" for CUDA 12)'
    if re.search("ptx|driver", error, re.IGNORECASE):
        return (
            f" (the driver may be older than numba-cuda's compilers; update it, or install those of PyTorch's CUDA "
            f'{torch.version.cuda}: pip install "tmask[cuda12]" for CUDA 12)'
        )
    return ""

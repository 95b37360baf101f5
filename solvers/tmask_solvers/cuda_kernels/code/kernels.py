"""Which kernel for which pattern and dtype, by name; and how it is made, where no process before has compiled it.

What describes a kernel needs neither numba nor its compilers: a kernel that is kept on disk is found without them.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from tmask_solvers.cuda_kernels.code.lines import WARP, inlined

SIDE = 4  # of tiles so small that a thread holds one: they have closed forms, and are tallied


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel, by all that decides its source.

    Args:
        kind: "rounds", "paths", "closed", "judge" or "tally".
        many: whether it takes many matrices, or one.
        packed: of "closed", whether it writes rows of the mask as one int32.
    """

    kind: str
    n: int
    m: int
    dtype: torch.dtype
    many: bool = False
    packed: bool = False

    @property
    def name(self) -> str:
        """A text for all of this."""
        extras = ("-many" if self.many else "") + ("-packed" if self.packed else "")
        return f"{self.kind}-{self.n}-{self.m}-{str(self.dtype).removeprefix('torch.')}{extras}"

    def build(self, cuda: Any) -> Any:
        """What `cuda.jit` makes of it."""
        return _built(cuda, self)


# `cuda` is part of the key, so that a simulated one in tests gets kernels of its own.
@cache
def _built(cuda: Any, kernel: Kernel) -> Any:
    # Late: closed forms stand on those of the CPU, which load numba.
    make = getattr(importlib.import_module(f"tmask_solvers.cuda_kernels.code.{kernel.kind}"), f"make_{kernel.kind}")
    widen = inlined(cuda, magnitude_of(kernel.dtype))
    if kernel.kind == "closed":
        code = make(cuda, kernel.n, widen, kernel.packed, kernel.many)
    else:
        real = np.float64 if kernel.dtype == torch.float64 else np.float32
        code = make(cuda, kernel.n, kernel.m, real, widen, kernel.many)
    # Launch bounds tell the compiler that a block is a warp, and that a thread may have as many registers as it wants.
    return cuda.jit(code, launch_bounds=WARP)


def magnitude_of(dtype: torch.dtype) -> Any:
    """Function from an entry of a tensor, as kernels get it, to its magnitude as float32 or float64."""
    return {torch.bfloat16: _of_bfloat16, torch.float16: _of_float16}.get(dtype, _of_real)


def _of_real(x: Any) -> Any:
    return abs(x)


def _of_float16(x: Any) -> Any:
    return abs(np.float32(x))


def _of_bfloat16(x: Any) -> Any:
    """bfloat16 is the upper half of float32, and comes as int16."""
    return np.uint32(np.uint32(x & 0x7FFF) << np.uint32(16)).view(np.float32)

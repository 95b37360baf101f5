"""What the CUDA kernels become: registers, memory and occupancy, as NVIDIA's compiler reports them. Needs no GPU.

`python -m bench.gpu_kernels` compiles every kernel of `midpoint-cuda` for some patterns to PTX and has `ptxas`
assemble it for compute capability 9.0 (H100, H200). It needs numba-cuda, NVRTC and NVVM (the extra `cuda`) and `ptxas`
on the path. Rows go to bench/results/gpu_kernels.csv.
"""

from __future__ import annotations

import csv
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

PATTERNS = ((1, 4), (2, 4), (3, 4), (2, 8), (4, 8), (3, 6), (4, 16), (8, 16), (8, 32), (16, 32))
DTYPES = ("float32", "bfloat16", "float16", "float64")
RESULTS = Path(__file__).parent / "results" / "gpu_kernels.csv"
COLUMNS = ("kernel", "n", "m", "dtype", "registers", "stack", "spills", "shared_bytes", "warps_per_processor")

# A multiprocessor of compute capability 9.0; a kernel's block is one warp.
_REGISTERS, _SHARED_BYTES, _RESERVED_BYTES, _BLOCKS = 65536, 233472, 1024, 32


def ptx_of(kernel: str, n: int, m: int, dtype: str, capability: tuple[int, int] = (9, 0), many: bool = False) -> str:
    """PTX of kernel "rounds", "paths", "closed", "judge" or "tally" of a pattern, for that compute capability.

    Args:
        many: of the kernel that takes many matrices at once.
    """
    import numba.cuda

    from tmask_solvers.cuda_kernels import direct
    from tmask_solvers.cuda_kernels.code.kernels import Kernel

    described = Kernel(kernel, n, m, getattr(torch, dtype), many, packed=kernel == "closed")
    with pretended(capability):
        return direct.ptx_of(described.build(numba.cuda), types_of(kernel, dtype, many), capability)


def types_of(kernel: str, dtype: str, many: bool) -> list[str]:
    """Of its arguments, as `direct` names them."""
    from tmask_solvers.cuda_kernels.code.places import NUMBERS

    # bfloat16 as its bits, and rows of a mask as words.
    memory = [
        f"{dtype.replace('bfloat16', 'int16')} array 1",
        f"{'int32' if kernel == 'closed' else 'boolean'} array 1",
    ]
    where = "int64 array 2" if many else f"int64 tuple {NUMBERS}"
    prices, numbers, listed = "float64 array 2", "float64 array 1", ["int32 array 1", "int32 array 1"]
    rest = {
        "closed": ["int64", *listed],
        "rounds": ["int64", prices, prices, "int64", *listed],
        "paths": [prices, prices, "int64", "int64", *listed, numbers],
        "judge": [numbers, "int64", "int64", numbers],
        "tally": [numbers, "int64", "int64", numbers],
    }
    return [*memory, where, *rest[kernel]]


@contextmanager
def pretended(capability: tuple[int, int]) -> Iterator[None]:
    """numba asks the current device for its capability when it compiles a device function."""
    device = SimpleNamespace(compute_capability=capability)
    with mock.patch("numba.cuda.dispatcher.get_current_device", return_value=device):
        yield


def assemble(ptx: str, architecture: str = "sm_90") -> dict[str, int]:
    """What `ptxas -v` reports: registers, stack, spills and shared_bytes."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = ["ptxas", "-v", f"-arch={architecture}", str(source), "-o", str(source.with_suffix(".cubin"))]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr

    def number(pattern: str) -> int:
        found = re.search(pattern, report)
        return int(found[1]) if found else 0

    return {
        "registers": number(r"Used (\d+) registers"),
        "stack": number(r"(\d+) bytes stack frame"),
        "spills": number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
        "shared_bytes": number(r"(\d+) bytes smem"),
    }


def warps_per_processor(registers: int, shared_bytes: int) -> int:
    """How many blocks of one warp fit a multiprocessor; registers are handed out in eights."""
    by_registers = _REGISTERS // (32 * (-(-registers // 8) * 8))
    by_memory = _SHARED_BYTES // (shared_bytes + _RESERVED_BYTES)
    return min(_BLOCKS, by_registers, by_memory)


def rows() -> Iterator[dict[str, Any]]:
    """A row for each kernel, pattern and dtype."""
    for n, m in PATTERNS:
        for dtype in DTYPES:
            for kernel in ("closed", "rounds", "paths", "judge", "tally"):
                if (m != 4 and kernel in ("closed", "tally")) or (kernel, dtype) == ("closed", "float64"):
                    continue
                used = assemble(ptx_of(kernel, n, m, dtype))
                warps = warps_per_processor(used["registers"], used["shared_bytes"])
                yield {"kernel": kernel, "n": n, "m": m, "dtype": dtype, **used, "warps_per_processor": warps}


def main() -> None:
    """Write the table, and print it."""
    # Line by line, so that an interrupt keeps what was assembled.
    with RESULTS.open("w", newline="", buffering=1) as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for row in rows():
            table.writerow(row)
            print(*row.values(), flush=True)


if __name__ == "__main__":
    main()

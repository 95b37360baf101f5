"""What the CUDA compiler makes of the kernels. Needs numba-cuda, NVRTC and NVVM (the extra "cuda"), and no GPU."""

from __future__ import annotations

import importlib.util
import re
import shutil
from functools import cache

import pytest

from bench.gpu_kernels import assemble, ptx_of, warps_per_processor


@cache
def why_not() -> str:
    """Why nothing can be compiled here, or ""."""
    if importlib.util.find_spec("numba_cuda") is None:
        return 'needs numba-cuda: pip install "tmask[cuda]"'
    try:
        ptx_of("closed", 1, 4, "float32")
    except Exception as error:
        # The libraries' own errors for a toolkit that is missing, which are of many types.
        if re.search("nvrtc|nvvm|libdevice|cuda", f"{type(error).__name__} {error}", re.IGNORECASE):
            return f'needs NVRTC and NVVM: pip install "tmask[cuda]" ({type(error).__name__})'
        raise
    return ""


KERNELS = [
    ("closed", 2, 4, "float32"),
    ("rounds", 4, 8, "float32"),
    ("rounds", 4, 8, "bfloat16"),
    ("rounds", 3, 6, "float16"),
    ("paths", 3, 6, "float32"),
    ("paths", 16, 32, "float32"),
    ("judge", 4, 8, "float32"),
    ("judge", 2, 4, "float64"),
    ("tally", 2, 4, "float16"),
]
MANY = [
    ("closed", 2, 4, "float32"),
    ("rounds", 4, 8, "float32"),
    ("paths", 3, 6, "float32"),
    ("judge", 4, 8, "bfloat16"),
    ("tally", 2, 4, "bfloat16"),
]


@cache
def compiled(*kernel, many=False) -> str:
    return ptx_of(*kernel, many=many)


@pytest.fixture(params=[*((kernel, False) for kernel in KERNELS), *((kernel, True) for kernel in MANY)])
def ptx(request) -> str:
    if reason := why_not():
        pytest.skip(reason)
    kernel, many = request.param
    return compiled(*kernel, many=many)


def instructions(ptx: str) -> list[str]:
    return re.findall(r"^\s+(?:@!?%p\d+ )?([a-z][a-z0-9.]+)\s", ptx, re.MULTILINE)


def test_nothing_is_fused_flushed_or_approximated(ptx):
    names = instructions(ptx)
    assert len(names) > 200
    assert not [name for name in names if name.startswith("fma") or ".ftz" in name or ".approx" in name]


def test_products_of_scores_and_prices_are_rounded_on_their_own(ptx):
    """ptxas may fuse a plain `mul` with an `add` that follows; `mul.rn` it may not."""
    assert "mul.f32" not in instructions(ptx)


def test_lines_stay_in_registers(ptx):
    assert ".local" not in ptx
    assert not re.search(r"\bcall\b", ptx)


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel[0] == "rounds"])
def test_the_rounds_compute_in_float32(kernel):
    if reason := why_not():
        pytest.skip(reason)
    wide = {name for name in instructions(compiled(*kernel)) if "f64" in name}
    assert wide <= {"cvt.f64.f32", "st.global.f64"}  # prices are stored in float64


def test_a_warp_is_a_block(ptx):
    assert re.search(r"\.maxntid\s+32\b", ptx)


def test_nothing_is_spilled(ptx):
    if shutil.which("ptxas") is None:
        pytest.skip("needs ptxas, of the CUDA toolkit, on the path")
    used = assemble(ptx)
    assert used["stack"] == 0
    assert used["spills"] == 0
    assert 0 < used["registers"] <= 160


@pytest.mark.parametrize(
    ("registers", "shared_bytes", "warps"), [(32, 0, 32), (64, 1536, 32), (65, 0, 28), (121, 4608, 16), (40, 50000, 4)]
)
def test_warps_per_processor(registers, shared_bytes, warps):
    assert warps_per_processor(registers, shared_bytes) == warps

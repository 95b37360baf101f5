"""`import tmask.nn` takes torch, and of the rest only what every use of it needs."""

import subprocess
import sys

import pytest

pytest.importorskip("torch")

# Each takes as long to load as torch itself, or nearly; the compiler is the one that slips in by a decorator.
HEAVY = (
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.tensor",
    "sympy",
    "numba",
    "ortools",
    "transformers",
    "lightning",
    "safetensors",
    "scipy",
)


def test_import_tmask_nn_loads_no_compiler():
    # What torch loads by itself is torch's affair, and differs by its version.
    code = (
        "import sys, torch; own = set(sys.modules); import tmask.nn\n"
        f"print([name for name in {HEAVY} if name in sys.modules and name not in own])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

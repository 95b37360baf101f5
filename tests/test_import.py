"""`import tmask` is light: numpy and the standard library, nothing else."""

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "numba",
    "ortools",
    "pulp",
    "networkx",
    "matplotlib",
    "pandas",
    "scipy",
    "typer",
    "rich",
    "safetensors",
)


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_tmask_pulls_in_numpy_alone():
    loaded = run(f"import sys, tmask; print([name for name in {HEAVY} if name in sys.modules])")
    assert loaded.strip() == "[]"


def test_listing_solvers_imports_none_of_their_libraries():
    loaded = run(f"import sys, tmask; tmask.available_solvers(); print([n for n in {HEAVY} if n in sys.modules])")
    assert loaded.strip() == "[]"


def test_a_solver_imports_its_own_library_alone():
    code = (
        "import sys, numpy as np, tmask\n"
        "tmask.get_solver('networkx-simplex').solve(np.ones((1, 4, 4), np.float32), 2)\n"
        "print([n for n in ('torch', 'numba', 'ortools', 'pulp') if n in sys.modules])"
    )
    assert run(code).strip() == "[]"


@pytest.mark.parametrize("module", ["tmask.nn", "tmask.nn.mask", "tmask.nn.integrations.lightning"])
def test_without_torch_its_part_says_what_to_install(module):
    code = f"import sys; sys.modules['torch'] = None\nimport {module}"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
    assert said.splitlines()[-1].endswith('tmask.nn needs torch, not installed here; run: pip install "tmask[torch]"')


def test_python_can_run_the_package():
    said = subprocess.run([sys.executable, "-m", "tmask", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("tmask ")

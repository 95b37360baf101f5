"""The conditions of docs/exactness.md broken on purpose, one at a time, in a copy of the kernels: a test must fail."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.nightly

ROOT = Path(__file__).parents[2]
CONDITIONS = "tests/solvers/test_exactness_conditions.py"
CLOSED = "tests/solvers/test_closed.py"

# What is broken: the file, what stands there, what takes its place; and a test that fails then.
MUTANTS = {
    "no change": ("cpu_kernels/midpoint/lanes.py", "fcmp_ordered", "fcmp_ordered", "", ""),
    "comparison not strict": (
        "cpu_kernels/midpoint/lanes.py",
        'fcmp_ordered(">", x[j], b)', 'fcmp_ordered(">=", x[j], b)', CONDITIONS, "strictly_larger",
    ),
    "fast flags on subtractions": (
        "cpu_kernels/midpoint/lanes.py",
        'emit.constant(j))) for j', 'emit.constant(j)), flags=("fast",)) for j',
        CONDITIONS, "fused_or_reordered",
    ),
    "fast mathematics in kernels": (
        "cpu_kernels/compiling.py", "fastmath=False", "fastmath=True", CONDITIONS, "lost_is_stated",
    ),
    "fast flags in closed forms": (
        "cpu_kernels/vector.py", "self.builder.fsub(self.value, self._other(other))",
        'self.builder.fsub(self.value, self._other(other), flags=("fast",))', CLOSED, "told_apart or exactly_optimal",
    ),
    "no grid for parted ties": (
        "cpu_kernels/midpoint/ties.py",
        "good &= (score + magic) - magic == score", "good &= True", CONDITIONS, "lost_is_stated",
    ),
    "no proof of parted ties": (
        "cpu_kernels/midpoint/ties.py",
        "good = (unproven >> place) & 1 == 0", "good = True", CONDITIONS, "lost_is_stated",
    ),
    "rounding to the grid kept quiet": (
        "cpu_kernels/midpoint/fallback.py",
        "if rounded else 0.0", "if False else 0.0", CONDITIONS, "lost_is_stated",
    ),
    "scores scaled to nothing kept quiet": (
        "cpu_kernels/augment.py",
        " or (score[i, j] > 0 and q[i, j] == 0)", "", CONDITIONS, "lost_is_stated",
    ),
    "wild prices in paths": (
        "cpu_kernels/midpoint/fallback.py",
        "if abs(price) < 2.0**48 else", "if True else", CONDITIONS, "starts_from_anything",
    ),
    "no margin in closed forms": (
        "cpu_kernels/closed/solve.py",
        "total * GUARD)", "total * 0.0)", CLOSED, "told_apart or exactly_optimal",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_broken_condition_is_noticed(name, tmp_path):
    file, old, new, tests, chosen = MUTANTS[name]
    copy = tmp_path / "tmask_solvers"
    shutil.copytree(ROOT / "solvers/tmask_solvers", copy, ignore=shutil.ignore_patterns("__pycache__"))
    source = (copy / file).read_text()
    assert old in source, "the code has changed, and so must this mutant"
    (copy / file).write_text(source.replace(old, new))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-o"]
    command += [f"pythonpath=. {tmp_path}", *([tests, "-k", chosen] if tests else [CONDITIONS])]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == (1 if tests else 0), done.stdout
    # Failed for what is broken, not for a call that no longer fits.
    assert not tests or re.search(r"AssertionError|^E +assert ", done.stdout, re.MULTILINE), done.stdout

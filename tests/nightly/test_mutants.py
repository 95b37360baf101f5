"""The conditions of docs: exactness broken on purpose, one at a time, in a copy of the kernels: a test must fail."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.mutants import CONDITIONS, KERNELS, MUTANTS, ROOT

pytestmark = pytest.mark.nightly


def run_on_copy(tmp_path, tests, *options):
    """The tests, by a pytest of its own that imports the kernels from the copy."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-o"]
    command += [f"pythonpath=. {tmp_path}", tests, *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(KERNELS, tmp_path / KERNELS.name, ignore=shutil.ignore_patterns("__pycache__"))


def test_nothing_fails_in_a_copy_without_change(copy):
    """Else the tests below would notice nothing but the copying."""
    done = run_on_copy(copy.parent, CONDITIONS)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_broken_condition_is_noticed(name, copy):
    mutant = MUTANTS[name]
    file = copy / mutant.file
    file.write_text(file.read_text().replace(mutant.old, mutant.new))
    done = run_on_copy(copy.parent, mutant.tests, "-k", mutant.chosen)
    assert done.returncode == 1, done.stdout
    # Failed for what is broken, not for a call that no longer fits.
    assert re.search(r"AssertionError|^E +assert ", done.stdout, re.MULTILINE), done.stdout

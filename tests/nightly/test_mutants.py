"""What makes results right, broken on purpose, one at a time, in a copy of the package: a test must fail."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.mutants import CONDITIONS, KERNELS, METHODS, MUTANTS, ROOT, TMASK

pytestmark = pytest.mark.nightly


def run_on_copy(package, tests, *options):
    """The tests, by a pytest of its own that imports the package from the copy."""
    folder = package.parent
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-o"]
    command += [f"pythonpath={folder} . {KERNELS.parent}", tests, *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (folder, ROOT, KERNELS.parent)))
    if package.name == KERNELS.name:
        environment["NUMBA_CACHE_DIR"] = str(folder / "cache")
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


def copied(package, folder):
    return shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))


@pytest.mark.parametrize(("package", "tests"), [(KERNELS, CONDITIONS), (TMASK, f"{METHODS}/test_problem.py")])
def test_nothing_fails_in_a_copy_without_change(tmp_path, package, tests):
    """Else the tests below would notice nothing but the copying."""
    done = run_on_copy(copied(package, tmp_path), tests)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_broken_condition_is_noticed(name, tmp_path):
    mutant = MUTANTS[name]
    copy = copied(mutant.package, tmp_path)
    file = copy / mutant.file
    file.write_text(file.read_text().replace(mutant.old, mutant.new))
    done = run_on_copy(copy, mutant.tests, "-k", mutant.chosen)
    assert done.returncode == 1, done.stdout
    # Failed for what is broken, not for a call that no longer fits.
    assert re.search(r"AssertionError|^E +assert ", done.stdout, re.MULTILINE), done.stdout

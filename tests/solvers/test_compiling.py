"""The key of the cache of compiled kernels: a kernel that is out of date would be loaded without a word."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("numba")

import tmask_solvers
from tmask_solvers.cpu_kernels.compiling import kernel
from tmask_solvers.shared.kernel_cache import digest_of_sources

PACKAGE = Path(tmask_solvers.__file__).parent


@kernel
def nothing():
    """Decorated as every kernel is."""


def test_the_cache_lies_in_a_folder_named_after_all_sources():
    assert digest_of_sources(PACKAGE) in nothing._cache._cache_path


@pytest.mark.parametrize("source", sorted(str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py")))
def test_the_key_changes_with_every_source(source, tmp_path):
    copy = shutil.copytree(PACKAGE, tmp_path / "package", ignore=shutil.ignore_patterns("__pycache__"))
    before = digest_of_sources(copy)
    with (copy / source).open("a") as file:
        file.write("# another line\n")
    assert digest_of_sources(copy) != before

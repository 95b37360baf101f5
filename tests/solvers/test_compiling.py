"""How kernels are compiled: parts within what calls them, and a cache whose key no kernel out of date fits."""

import gc
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("numba")

import numba
from numba.core import event

import tmask_solvers
from tmask_solvers.cpu_kernels.compiling import kernel, lean_kernel, rare_kernel
from tmask_solvers.cpu_kernels.examining import examine_window
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


@lean_kernel
def twice(x):
    return 2 * x


@rare_kernel
def thrice(x):
    return 3 * x


@kernel
def six_times(x):
    return twice(thrice(x))


def test_parts_are_compiled_into_what_calls_them():
    fresh = numba.njit(six_times.py_func)  # one from disk shows no code
    assert fresh(7) == six_times(7) == 42
    code = fresh.inspect_llvm(fresh.signatures[0])
    assert re.search(r"call .*thrice", code)  # rare: kept apart
    assert not re.search(r"call .*twice", code)


@pytest.mark.parametrize("part", [twice, thrice])
def test_parts_cannot_be_called_from_python(part):
    """They have no code of their own; before and after a kernel was compiled that calls them."""
    for _ in range(2):
        with pytest.raises(TypeError, match="cannot be called from Python"):
            part(1)
        six_times(1.0)


@pytest.mark.parametrize("on", [True, False])
def test_nothing_is_collected_while_kernels_of_this_package_are_compiled(on):
    def compiling(dispatcher):
        return event.trigger_event("numba:compile", {"dispatcher": dispatcher})

    (gc.enable if on else gc.disable)()
    try:
        with compiling(six_times):
            assert gc.isenabled() == on
            with compiling(examine_window):
                with compiling(examine_window):
                    assert not gc.isenabled()
                assert not gc.isenabled()
            assert gc.isenabled() == on
    finally:
        gc.enable()

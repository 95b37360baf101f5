"""The one way in which kernels are compiled and cached.

numba keys its disk cache by the file that a kernel stands in, and does not see that a kernel which it calls, in another
file, has changed. So the cache lies in a folder named after a hash of all sources of this package (`kernel_cache`): any
change makes a new one. It is numba's own folder (NUMBA_CACHE_DIR) if the user has set one, else beside the sources, and
where that cannot be written numba falls back to the user's cache folder. Without any of them, kernels are compiled all
the same (`disk_cache`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

from tmask_solvers.cpu_kernels.collecting import pause_for_all
from tmask_solvers.cpu_kernels.disk_cache import make_cache
from tmask_solvers.cpu_kernels.linking import ApartCompiler, PartCompiler, refuse_python
from tmask_solvers.shared.announce import announce_all
from tmask_solvers.shared.kernel_cache import cache_folder

announce_all()
pause_for_all()

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile a function of arrays to machine code, cached on disk between processes.

    fastmath stays off: it would let the compiler reorder sums, fuse a multiply and an add, and assume that equal things
    are not compared, and exactness rests on none of that happening. nogil lets bands of blocks run in threads.
    """
    return _cached(function)


def lean_entry(function: Function) -> Function:
    """A `kernel` that allocates nothing, and so need not count references to its arrays.

    Functions that hand each other tuples of arrays, for every block, spend most of their time on that otherwise.
    """
    return _cached(function, _nrt=False)


def lean_kernel(function: Function) -> Function:
    """A function that allocates nothing and is called by kernels alone, as whose part it is compiled (`linking`)."""
    return _part(function, PartCompiler)


def rare_kernel(function: Function) -> Function:
    """A `lean_kernel` that few blocks need, and that is kept out of the loops that all of them go through.

    Inlined there, it would be compiled once for each place that calls it, and its values would take the registers.
    """
    return _part(function, ApartCompiler)


def cached_apart(function: Function) -> Function:
    """A `lean_entry` that Python cannot call: for `late_kernel`, which needs its address alone."""
    apart = _cached(function, _nrt=False, no_cpython_wrapper=True)
    refuse_python(apart)
    return apart


def inlined(function: Function) -> Function:
    """A `lean_kernel` that becomes a part of its caller, since to hand over a tuple of arrays costs some of them a
    hundred stores.

    numba writes it out there before it compiles anything.
    """
    return cast("Function", _compiled(function, _nrt=False, inline="always"))


def _part(function: Function, compiler: type[PartCompiler]) -> Function:
    part = _compiled(function, _nrt=False, pipeline_class=compiler, no_cpython_wrapper=True)
    refuse_python(part)
    return cast("Function", part)


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    # Python's error model would make each division a branch that can raise, and loops with one stay scalar. Pointers
    # for C would be compiled for each function, and nobody asks for one.
    njit: Any = numba.njit  # its types know no wrappers
    return njit(function, nogil=True, fastmath=False, error_model="numpy", no_cfunc_wrapper=True, **options)


def _cached(function: Function, **options: Any) -> Function:
    config: Any = numba.config  # its attributes are made at run time
    before = config.CACHE_DIR
    folder = cache_folder(before)
    compiled = _compiled(function, **options)
    config.CACHE_DIR = str(folder)  # numba reads it while it makes a cache
    try:
        compiled._cache = make_cache(function, folder, folder.name)
    finally:
        config.CACHE_DIR = before  # the user's own kernels are cached by it, too
    return cast("Function", compiled)

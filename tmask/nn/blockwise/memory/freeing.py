"""Memory that is not needed any more, given back to the system."""

from __future__ import annotations

import ctypes
import functools
import gc
from collections.abc import Callable


def free_cycles() -> None:
    """Free what holds itself in circles, as modules do: a block is large, and Python would wait for many of them."""
    gc.collect()
    free_heap()


def free_heap() -> None:
    """Give back what the C library keeps of freed memory.

    glibc keeps freed pieces of up to 32 MB, such as matrices of moments, in one heap with the small ones, where new
    ones of other sizes often find no room: by and by, as much again as is in use.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """`malloc_trim` of glibc; None where the C library is another."""
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # TypeError: Windows has no such handle
        return None
    return trim

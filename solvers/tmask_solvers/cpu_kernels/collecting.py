"""No garbage collection while kernels of this package are compiled.

numba makes millions of small objects for a kernel, and nearly all of them stay until it is done: Python's collector
goes through them again and again, finds nothing, and takes a seventh of the time.
"""

from __future__ import annotations

import gc
from functools import cache
from typing import Any

from numba.core import event

_PACKAGE = __name__.partition(".")[0]


class _Pause(event.Listener):
    """From the start of the outermost compilation to its end; numba compiles under a lock, in one thread at a time."""

    def __init__(self) -> None:
        self.depth = 0
        self.was_on = False

    def on_start(self, event: Any) -> None:
        if not _is_ours(event):
            return
        if self.depth == 0:
            self.was_on = gc.isenabled()
            gc.disable()
        self.depth += 1

    def on_end(self, event: Any) -> None:
        if not _is_ours(event):
            return
        self.depth -= 1
        if self.depth == 0 and self.was_on:
            gc.enable()


def _is_ours(event: Any) -> bool:
    # A user's own functions are compiled by the same numba; one made by `exec` is of no module.
    return (event.data["dispatcher"].py_func.__module__ or "").startswith(_PACKAGE)


@cache
def pause_for_all() -> event.Listener:
    """From now on."""
    listener = _Pause()
    event.register("numba:compile", listener)  # type: ignore[no-untyped-call]  # numba has no types
    return listener

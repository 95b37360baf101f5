"""Say that kernels are being compiled, since the first call of a pattern then takes some seconds.

Whoever knows for what they are compiled says so (`announced`); of all others a listener of numba's tells
(`announce_all`), so that no solver can be forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from numba.core import event

from tmask.showing.notes import tell
from tmask_solvers.shared.kernel_cache import tell_if_empty


class _Listener(event.Listener):
    """Speaks at the first compilation it hears of; what is loaded from the disk cache makes no such event."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.silent = True

    def on_start(self, event: Any) -> None:
        if self.silent:
            self.silent = False
            tell(f"compiling {self.what}: some seconds, once on this machine")

    def on_end(self, event: Any) -> None:
        """Nothing to say."""


class _ForAll(_Listener):
    """Hears of every kernel of this package, and leaves those to `announced` that are compiled inside of it."""

    def on_start(self, event: Any) -> None:
        # A user's own functions are compiled by the same numba; one made by `exec` is of no module.
        module = event.data["dispatcher"].py_func.__module__ or ""
        if _named.get() == 0 and module.startswith(_PACKAGE):
            super().on_start(event)


_PACKAGE = __name__.partition(".")[0]
_named: ContextVar[int] = ContextVar("named", default=0)  # how many `announced` this is inside of


@contextmanager
def announced(what: str) -> Iterator[None]:
    """Say "compiling {what}" if kernels are compiled inside: on logger "tmask", or to a person who is there."""
    before = _named.set(_named.get() + 1)
    try:
        with event.install_listener("numba:compile", _Listener(what)):
            yield
    finally:
        _named.reset(before)


@cache
def announce_all() -> event.Listener:
    """From now on say, once, that kernels are compiled outside of `announced`; not where that was said beforehand."""
    listener = _ForAll("kernels")
    listener.silent = not tell_if_empty()
    event.register("numba:compile", listener)  # type: ignore[no-untyped-call]  # numba has no types
    return listener

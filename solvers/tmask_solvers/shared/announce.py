"""Say that kernels are being compiled, since the first call of a pattern then takes some seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import event

from tmask.showing.notes import tell


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


@contextmanager
def announced(what: str) -> Iterator[None]:
    """Say "compiling {what}" if kernels are compiled inside: on logger "tmask", or to a person who is there."""
    with event.install_listener("numba:compile", _Listener(what)):
        yield

"""Say that kernels are being compiled, since the first call of a pattern then takes some seconds."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import event

log = logging.getLogger("tmask")


class _Listener(event.Listener):
    """Logs at the first compilation it hears of; what is loaded from the disk cache makes no such event."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.silent = True

    def on_start(self, event: Any) -> None:
        if self.silent:
            self.silent = False
            log.info("compiling %s: some seconds, once on this machine", self.what)

    def on_end(self, event: Any) -> None:
        """Nothing to say."""


@contextmanager
def announced(what: str) -> Iterator[None]:
    """Log "compiling {what}" on logger "tmask", level INFO, if kernels are compiled inside."""
    with event.install_listener("numba:compile", _Listener(what)):
        yield

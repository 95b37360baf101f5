"""Signals that ask a command to end: it cleans up as after Ctrl-C.

Installed by the command line alone. A library must not change what signals do to the program that imports it.
"""

from __future__ import annotations

import signal
from types import FrameType


class EndedBySignal(KeyboardInterrupt):
    """A signal other than Ctrl-C's has asked to end; an interrupt to all who clean up after one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


def stop_on_signals() -> None:
    """Raise EndedBySignal in the main thread on TERM and HUP, unless they are ignored, as under `nohup`."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no HUP
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _stop)


def _stop(number: int, _: FrameType | None) -> None:
    # A second one ends the process at once: the first may wait for native code that does not return.
    signal.signal(number, signal.SIG_DFL)
    raise EndedBySignal(number)

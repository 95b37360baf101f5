"""Say what takes long, to whoever is there to read it."""

from __future__ import annotations

import logging
import sys

from tmask.showing.progress import in_notebook

log = logging.getLogger("tmask")


def tell(text: str) -> None:
    """Log a text at level INFO; where nobody has asked for such texts, show it to a person at a terminal or notebook.

    A script whose output goes to a file stays silent, as logging would have it.
    """
    if log.isEnabledFor(logging.INFO):
        log.info("%s", text)
    elif in_notebook() or sys.stderr.isatty():
        print(f"tmask: {text}", file=sys.stderr, flush=True)

"""How long work tells where it is."""

from __future__ import annotations

from collections.abc import Callable

# Called with what is done, of how many, and the name of what comes next ("" at the end).
Progress = Callable[[int, int, str], object]

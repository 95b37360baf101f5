"""Calls timed in turn, so that a slow moment of the machine hits all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

Row = dict[str, Any]

_TURN = 0.05  # seconds


def measure(groups: dict[str, Callable[[], Row]], repeats: int) -> Iterator[Row]:
    """Run all in turn, after one unmeasured call each; the mean wall-clock seconds of a turn's calls in its row.

    A turn is one call, or as many as fill `_TURN`: what ran before has then left the caches.
    """
    numbers = {}
    # The first call may compile; how many fit a turn goes by the second.
    for name, call in groups.items():
        call()
        begin = time.perf_counter()
        call()
        numbers[name] = max(1, round(_TURN / (time.perf_counter() - begin)))
    for repeat in range(repeats):
        for name, call in groups.items():
            begin = time.perf_counter()
            for _ in range(numbers[name]):
                row = call()
            seconds = (time.perf_counter() - begin) / numbers[name]
            yield {"solver": name, "repeat": repeat, "calls": numbers[name], "seconds": seconds} | row

"""How much memory a tensor of a file would take, held against what the file holds of it and what is free.

A file of a few kilobytes can declare gigabytes: one number that repeats, zeros that are compressed. Weights do not look
like that, and who reads such a file runs out of memory before anything is known of its contents.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

from tmask.files.tensors import CODES, num_bytes

# The zeros of a pruned layer compress to nothing, but the rest hardly does: one of 97 % zeros stays well below this.
_MOST_TIMES = 100
_HARMLESS = 1 << 26
_MEMINFO = Path("/proc/meminfo")


def check_growth(needed: int, stored: int) -> None:
    """Return if contents of `stored` bytes in a file may become `needed` bytes in memory.

    Raises:
        ValueError: they are no weights, but a few bytes that repeat.
    """
    if needed > max(_HARMLESS, _MOST_TIMES * stored):
        raise ValueError(
            f"it would take {_in_words(needed)} of memory, of which the file holds {_in_words(stored)}; weights do not "
            "repeat like that"
        )


def check_memory(dtype: str, shape: tuple[int, ...]) -> None:
    """Return if a tensor of this dtype and shape fits the memory that is free, as far as that is known.

    Raises:
        ValueError: it does not.
    """
    needed = math.prod(shape) * (num_bytes(dtype) if dtype in CODES else 1)
    free = free_bytes()
    if needed > _HARMLESS and free is not None and needed > free:
        raise ValueError(f"it would take {_in_words(needed)} of memory, and {_in_words(free)} are free")


def free_bytes() -> int | None:
    """Memory that could be taken without swapping, or None where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _in_words(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 1 << 29 else f"{count:,} bytes"

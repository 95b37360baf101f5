"""What the axes of a weight mean. Shapes do not say it: (8, 16, 16) is eight experts, or a convolution.

- "matrix": (rows, cols).
- "stack": matrices one behind the other, rows and columns last, as fused experts are stored. Whether a matrix is
  (out, in) or (in, out) makes no difference: transposing a weight transposes its masks.
- "convolution": (outputs, inputs of a group, *kernel).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from tmask.errors import InvalidProblemError

LAYOUTS = ("matrix", "stack", "convolution")

# Kernels reach this far in any network; beyond, and beyond both numbers of channels, the axes are in another order.
_USUAL_KERNEL = 8


def read_layout(shape: Sequence[int], layout: str | None = None) -> str:
    """The layout of a weight of two axes or more: the one that is given, or the only one that its shape can mean.

    Raises:
        InvalidProblemError: an unknown layout, one that does not fit, or none where the shape leaves it open.
    """
    if layout is not None and layout not in LAYOUTS:
        raise InvalidProblemError(f"layout {layout!r}: choose from {', '.join(LAYOUTS)}")
    if len(shape) == 2:
        return "matrix"  # a stack of one, a convolution without a kernel
    if layout == "matrix":
        raise InvalidProblemError(f"weight of shape {tuple(shape)} is no matrix; say 'stack' or 'convolution'")
    if layout is not None:
        return layout
    if is_open(shape):
        raise InvalidProblemError(
            f"weight of shape {tuple(shape)}: a stack of matrices {tuple(shape[-2:])}, or a convolution of "
            f"{shape[0]} outputs and {shape[1]} inputs with a kernel of {' x '.join(map(str, shape[2:]))}? "
            f"say layout='stack' or layout='convolution' (--layout NAME=stack)"
        )
    return "convolution"


def is_open(shape: Sequence[int]) -> bool:
    """Whether a shape alone does not say what it is."""
    widest = max(shape[2:], default=0)
    return len(shape) == 3 or (widest > _USUAL_KERNEL and widest >= max(shape[:2]))


def sides(shape: Sequence[int], layout: str, groups: int = 1) -> tuple[int, int]:
    """Rows and columns of each of the matrices that a weight of this layout is seen as."""
    rows, cols = shape[-2:] if layout == "stack" else shape[:2]
    return rows // groups, cols


def in_words(shape: Sequence[int], layout: str, groups: int = 1) -> str:
    """How a weight was read, for a table."""
    count = math.prod(shape[:-2])
    text = f"stack of {count}" if layout == "stack" else layout
    return f"{text}, {groups} groups" if groups > 1 else text


def all_in_words(read: Iterable[str]) -> str:
    """How several weights were read, by `in_words`, in one text: each way with the number of weights."""
    return "; ".join(f"{count} x {text}" for text, count in Counter(read).items())

"""A new figure, where matplotlib is installed.

Made without pyplot, which would choose a window system for the whole process; a notebook shows it all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tmask.errors import SolverUnavailableError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure, width and height in inches.

    Raises:
        SolverUnavailableError: matplotlib is not installed; the text says how to install it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SolverUnavailableError(
            'a figure needs matplotlib, not installed here; run: pip install "tmask[plot]"'
        ) from error
    return Figure(figsize=size, layout="constrained")

"""A new figure, where matplotlib is installed.

Made without pyplot, which would choose a window system for the whole process; it gives a notebook its picture itself.
"""

from __future__ import annotations

from functools import partial
from io import BytesIO
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
    figure = Figure(figsize=size, layout="constrained")
    # IPython asks for this by name; without pyplot nobody else would answer.
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    return figure


def _png(figure: Figure) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png", dpi=80)
    return file.getvalue()

"""A mask as a picture: small and in the page as SVG, which needs no library, or a figure of matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tmask.showing.matplotlib_figures import new_figure
from tmask.showing.styles import BLUE, GRID, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Entries to a side: more could not be told apart in a table's picture.
_SMALL, _LARGE = 24, 64
_PIXELS = 5

BoolGrid = npt.NDArray[np.bool_]


def mask_corner(mask: Any, side: int) -> BoolGrid:
    """The first rows and columns of a mask, as numpy; of a convolution those at its first kernel position."""
    part = mask[:side, :side]
    while part.ndim > 2:
        part = part[..., 0]
    # torch's tensors may lie on a device, and are not known here by name.
    return np.asarray(part.cpu() if hasattr(part, "cpu") else part)


def mask_svg(mask: Any, m: int) -> str:
    """The corner of a mask, kept entries filled, with a line around each block of side m."""
    corner = mask_corner(mask, max(m, _SMALL // m * m))
    height, width = corner.shape
    cells = "".join(f"M{j} {i}h1v1h-1z" for i, j in np.argwhere(corner))
    lines = "".join(f"M0 {i}h{width}" for i in range(0, height + 1, m))
    lines += "".join(f"M{j} 0v{height}" for j in range(0, width + 1, m))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_PIXELS * width}" height="{_PIXELS * height}" '
        f'viewBox="-0.2 -0.2 {width + 0.4} {height + 0.4}" role="img"><title>first {height} rows and {width} columns '
        f'of the mask</title><path d="{cells}" fill="{BLUE}"/>'
        f'<path d="{lines}" fill="none" stroke="currentColor" stroke-width="0.15"/></svg>'
    )


def draw_mask(mask: Any, m: int, title: str = "") -> Figure:
    """The corner of a mask, kept entries dark.

    Raises:
        SolverUnavailableError: matplotlib is not installed.
    """
    corner = mask_corner(mask, max(m, _LARGE // m * m))
    figure = new_figure((5, 5.3))
    axes = figure.subplots()
    show_mask(axes, corner, m)
    figure.suptitle(title, fontsize=10, x=0.02, ha="left")
    axes.set_xlabel(f"first {corner.shape[1]} inputs")
    axes.set_ylabel(f"first {corner.shape[0]} outputs")
    return figure


def show_mask(axes: Axes, mask: BoolGrid, m: int, colour: str = BLUE) -> None:
    """Kept entries filled, blocks of side m parted by lines."""
    from matplotlib.colors import ListedColormap

    axes.pcolormesh(mask[:, :], cmap=ListedColormap(["white", colour]), vmin=0, vmax=1, edgecolors=GRID, linewidth=0.3)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.set_yticks([])
    for k in range(0, mask.shape[0] + 1, m):
        axes.axhline(k, color=INK, linewidth=0.8)
    for k in range(0, mask.shape[1] + 1, m):
        axes.axvline(k, color=INK, linewidth=0.8)

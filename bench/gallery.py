"""Pictures of the idea, of masks under several solvers, and of the house, for README and docs.

python -m bench.gallery
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import tmask
from bench.house import CORE, MAY_IMPORT
from tmask.comparison.builtin import builtin_weights
from tmask.files.opening import open_weights
from tmask.showing.mask_pictures import show_mask
from tmask.showing.matplotlib_figures import new_figure
from tmask.showing.numbers import percent
from tmask.showing.styles import BLUE, GREEN, INK, ORANGE, PURPLE, SOLVERS, save_options

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
_SIDE = 8
_SHOWN = ("midpoint", "local-search", "greedy-keep", "bi-nm")


def draw_idea() -> Figure:
    """A block of weights, its best 4:8 mask, and the transpose, which obeys the same rule."""
    block = np.random.default_rng(3).standard_normal((_SIDE, _SIDE)).astype(np.float32)
    mask = tmask.solve(block, "4:8").mask
    figure = new_figure((9.6, 3.5))
    first, second, third = figure.subplots(1, 3)
    first.pcolormesh(np.abs(block), cmap="Greys", edgecolors="white", linewidth=1)
    first.set_aspect("equal")
    first.invert_yaxis()
    first.set_xticks([])
    first.set_yticks([])
    _titled(first, "a block of weights, by size", "")
    show_mask(second, mask, _SIDE)
    _titled(second, "its best 4:8 mask, proven", "4 kept in every row and every column")
    show_mask(third, mask.T, _SIDE)
    _titled(third, "the transpose is 4:8 too", "one mask for forward and backward")
    return figure


def draw_masks() -> Figure:
    """The heaviest full block of a trained layer under an exact solver, two heuristics and a baseline."""
    file = open_weights(builtin_weights())
    weight = max(
        (np.asarray(file.read(name).values()) for name in file.names if len(file.shapes[name]) == 2), key=np.size
    )
    corner = weight[:32, :32].astype(np.float32)
    figure = new_figure((10.5, 3.3))
    for axes, name in zip(figure.subplots(1, len(_SHOWN)), _SHOWN, strict=True):
        solution = tmask.solve(corner, "4:8", name)
        show_mask(axes, solution.mask, _SIDE, SOLVERS[name][0])
        short = ", underfilled" if solution.status == "underfilled" else ""
        _titled(axes, name, f"keeps {percent(solution.retained)}{short}")
    return figure


def draw_house() -> Figure:
    """The rooms in floors, each above all that it imports."""
    rooms = {part: set(names.split()) for part, names in MAY_IMPORT.items()}
    floors: dict[str, int] = {}

    def floor(part: str) -> int:
        if part not in floors:
            floors[part] = 1 + max((floor(name) for name in rooms[part]), default=-1)
        return floors[part]

    for part in rooms:
        floor(part)
    figure = new_figure((11, 7))
    axes = figure.subplots()
    axes.set_axis_off()
    for level in sorted(set(floors.values())):
        own = sorted(part for part in rooms if floors[part] == level)
        for place, part in enumerate(own):
            box: dict[str, Any] = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": _colour(part)}
            name = part.removeprefix("tmask.").replace("tmask_solvers.", "solvers.")  # else boxes lie on one another
            axes.text((place + 0.5) / len(own), level, name, ha="center", va="center", bbox=box)
    axes.set_ylim(-0.7, max(floors.values()) + 0.7)
    axes.set_title(f"each room imports rooms below it alone (the core: {CORE.replace('tmask.', '')})", color=INK)
    return figure


def _colour(part: str) -> str:
    if part.startswith("tmask_solvers"):
        return ORANGE
    return GREEN if part.startswith("tmask.nn") else PURPLE if part == "tmask.cli" else BLUE


def _titled(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(below, fontsize=9.5)


def main() -> None:
    """Write the pictures into docs/pictures."""
    PICTURES.mkdir(exist_ok=True)
    for name, draw in (("idea", draw_idea), ("masks", draw_masks), ("house", draw_house)):
        path = PICTURES / f"{name}.png"
        draw().savefig(path, **save_options(path))
        print(path)


if __name__ == "__main__":
    main()

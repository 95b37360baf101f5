"""The looks that figures share: colours, markers, lines, and how a figure is saved.

Colours are Okabe and Ito's, which the colour-blind can tell apart; markers or dashes differ as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, YELLOW = "#CC79A7", "#56B4E9", "#000000", "#F0E442"
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK, YELLOW)  # yellow last: the weakest on white

MARKERS = ("o", "s", "^", "D", "P", "v", "X", "*", "<", "p", ">", "d", (4, 1, 0), "h", (3, 1, 0), (8, 1, 0))
# One colour and one marker for each built-in solver, in all figures. Colours go by kind: our exact ones, exact ones of
# other libraries, heuristics, baselines. Markers differ throughout, so that a figure printed grey can be read.
SOLVERS: dict[str, tuple[str, Any]] = {
    "midpoint": (BLUE, "o"),
    "augmenting-paths": (BLUE, "s"),
    "midpoint-torch": (BLUE, "p"),
    "midpoint-cuda": (BLUE, "h"),
    "patterns": (BLUE, "D"),
    "ortools-flow": (GREEN, "^"),
    "networkx-simplex": (GREEN, "v"),
    "ortools-cpsat": (GREEN, "<"),
    "pulp-cbc": (GREEN, ">"),
    "pulp-highs": (GREEN, "d"),
    "ortools-pdlp": (GREEN, (8, 1, 0)),
    "greedy-keep": (ORANGE, "P"),
    "greedy-prune": (ORANGE, "X"),
    "local-search": (ORANGE, "*"),
    "entropic": (ORANGE, (6, 1, 0)),
    "bi-nm": (PURPLE, (4, 1, 0)),
    "random-best": (PURPLE, "H"),
}

_SIZES: dict[object, float] = {
    "D": 6.5, "*": 11, "d": 9, (4, 1, 0): 10, (3, 1, 0): 10, (6, 1, 0): 10, (8, 1, 0): 9,
}  # fmt: skip

INK = "#333333"
GRID = "#dddddd"
SEPARATOR = "#bbbbbb"  # between the slots of patterns

# matplotlib's type of settings lists every key, which no dict of ours has: hence Any.
RC: Any = {"svg.hashsalt": "tmask"}  # fixed names of parts: the same numbers give the same SVG
RC_PANELS: Any = RC | {"axes.axisbelow": True, "font.size": 10}


def marker_size(marker: object) -> float:
    """Markers of one size in points look of different sizes."""
    return _SIZES.get(marker, 8)


def point_style(colour: str, marker: Any, hollow: bool, size: float = 8) -> dict[str, Any]:
    """One marker without a line; a cross has no inside, so it takes its colour from the edge."""
    edged = hollow or marker == "x"
    return {
        "linestyle": "none",
        "marker": marker,
        "markersize": size,
        "markerfacecolor": "white" if hollow else colour,
        "markeredgecolor": colour if edged else INK,
        "markeredgewidth": 1.8 if edged else 0.6,
        "zorder": 3,
    }


def save_options(path: Path) -> dict[str, Any]:
    """Of `savefig`. Without the date the same numbers give the same file."""
    date = {".svg": "Date", ".pdf": "CreationDate"}.get(path.suffix.lower())
    return {"dpi": 150, "metadata": {date: None} if date else None}

"""The figure and the rank correlations of bench.diversity_accuracy, from its rows alone.

python -m bench.diversity_accuracy_report [CSV]
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.rows import RESULTS, read_rows
from tmask.files.atomic import atomic_path
from tmask.showing.styles import BLUE, GREEN, GRID, INK, ORANGE, PURPLE, save_options

_STYLES = {
    "unstructured": (GREEN, "^"),
    "plain": (ORANGE, "s"),
    "transposable": (BLUE, "o"),
    "structured": (PURPLE, "D"),
}


def averages(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each constraint, pattern and stage: Top-1 as mean over seeds."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["constraint"], row["pattern"], row["stage"]), []).append(row)
    return [
        {
            "constraint": constraint,
            "pattern": pattern,
            "stage": stage,
            "bits": float(group[0]["bits_per_weight"]),
            "top1": statistics.fmean(float(row["top1"]) for row in group),
            "seeds": len(group),
        }
        for (constraint, pattern, stage), group in groups.items()
    ]


def stages_of(means: list[dict[str, Any]]) -> list[str]:
    """In the order of the rows: before AdaPrune, and after it."""
    return list(dict.fromkeys(row["stage"] for row in means))


def correlation(means: list[dict[str, Any]], stage: str) -> float:
    """Spearman's rank correlation over the constraints."""
    from scipy.stats import spearmanr

    chosen = [row for row in means if row["stage"] == stage]
    return float(spearmanr([row["bits"] for row in chosen], [row["top1"] for row in chosen]).statistic)


def draw(means: list[dict[str, Any]], path: Path) -> Path:
    """Top-1 over bits per weight, hollow before AdaPrune and filled after."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(8.5, 5), layout="constrained")
    axes = figure.subplots()
    for row in means:
        colour, marker = _STYLES[row["constraint"]]
        after = row["stage"] == "after"
        face, edge = (colour, INK) if after else ("white", colour)
        at = row["bits"], 100 * row["top1"]
        style: dict[str, Any] = {
            "marker": marker,
            "color": face,
            "markeredgecolor": edge,
            "linestyle": "none",
            # Of the same size, structured 1:2 would hide transposable 1:2, which allows about as many masks.
            "markersize": 6 if row["constraint"] == "structured" else 9,
            "zorder": 3 if row["constraint"] == "structured" else 2,
        }
        axes.plot(*at, **style)
        if row["constraint"] != "unstructured":
            # Beside the points of structured masks, which lie close together; above the others.
            beside = row["constraint"] == "structured"
            offset, align = ((8, -3), "left") if beside else ((0, 8), "center")
            axes.annotate(row["pattern"], at, offset, textcoords="offset points", ha=align, fontsize=8)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.set_xlabel("log2 of the number of masks, per weight (bits)")
    axes.set_ylabel("Top-1 (%)")
    # Room for the patterns' names above the highest points.
    axes.set_ylim(top=axes.get_ylim()[1] + 1)
    numbers = ", ".join(f"{correlation(means, stage):.3f} {stage} AdaPrune" for stage in stages_of(means))
    title = f"ResNet-20 on CIFAR-10, half of the weights kept\nSpearman correlation {numbers}"
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    handles = [
        Line2D([], [], label=name, color=colour, marker=marker, linestyle="none", markersize=9)
        for name, (colour, marker) in _STYLES.items()
    ]
    hollow: dict[str, Any] = {
        "marker": "o",
        "color": "white",
        "markeredgecolor": INK,
        "linestyle": "none",
        "markersize": 9,
    }
    handles += [Line2D([], [], label="hollow: before AdaPrune", **hollow)]
    axes.legend(handles=handles, loc="lower right", frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, **save_options(path))
    return path


def main(
    csv: Annotated[Path, typer.Argument(help="Rows of bench.diversity_accuracy.")] = RESULTS / "diversity_accuracy.csv",
) -> None:
    """Draw the figure beside the CSV, and print the correlations."""
    means = averages(read_rows(csv))
    for stage in stages_of(means):
        print(f"Spearman correlation of Top-1 with bits per weight, {stage} AdaPrune: {correlation(means, stage):.3f}")
    print(draw(means, csv.with_suffix(".png")))


if __name__ == "__main__":
    typer.run(main)

"""Does accuracy follow mask diversity? One trained model under many constraints that keep half of the weights.

    python -m bench.diversity_accuracy DATA [--seeds 0,1,2]

Each constraint's mask is the best for |weight| (transposable masks by an exact solver), so the constraints differ in
the freedom that they leave and in nothing else. Accuracy before AdaPrune, with new batch norm statistics, and after it;
as in `bench.adaprune`, every pruning starts from the model as it was trained.
Rows that the CSV holds already are kept. The figure and the rank correlations are drawn from the CSV alone.
"""

from __future__ import annotations

import copy
import os
import statistics
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

from bench import cifar
from bench.adaprune import DAMPING, Seed
from bench.rows import RESULTS, commit, read_rows
from tmask.blocks.pattern import Pattern
from tmask.blocks.tiling import Tiling
from tmask.comparison.environment import environment
from tmask.diversity import kept_of, tensor_diversity
from tmask.files.atomic import atomic_path, check_output
from tmask.files.csv_files import write_csv
from tmask.nn import reconstruct
from tmask.nn.fitting.layer_masks import plain_mask
from tmask.nn.fitting.refit import Refit
from tmask.solving.api import solve

CONSTRAINTS = (
    ("unstructured", "1:2"),
    *(("plain", pattern) for pattern in ("1:2", "2:4", "4:8", "8:16")),
    *(("transposable", pattern) for pattern in ("1:2", "2:4", "4:8", "8:16")),
    *(("structured", pattern) for pattern in ("1:2", "2:4", "4:8", "8:16")),
)
STAGES: dict[str, Refit] = {"before": "none", "after": "least-squares"}
_STYLES = {
    "unstructured": ("#009E73", "^"),
    "plain": ("#E69F00", "s"),
    "transposable": ("#0072B2", "o"),
    "structured": ("#CC79A7", "D"),
}
_INK = "#333333"


def best_mask(weight: Tensor, pattern: Pattern, constraint: str) -> Tensor:
    """The mask of a constraint that keeps the most of |weight|."""
    scores = weight.detach().abs().numpy()
    if constraint == "unstructured":
        kept = kept_of(scores.size, Fraction(pattern.n, pattern.m))
        mask = np.zeros(scores.size, np.bool_)
        mask[np.argsort(-scores, axis=None, kind="stable")[:kept]] = True
        return torch.from_numpy(mask.reshape(scores.shape))
    if constraint == "plain":
        return torch.from_numpy(plain_mask(scores, pattern))
    if constraint == "transposable":
        return torch.from_numpy(solve(scores, pattern).mask)
    tiling = Tiling(scores.shape, pattern)
    (blocks,) = tiling.split(scores)  # m divides every side of this model's layers
    worth = blocks.sum((1, 2))
    chosen = np.zeros(len(blocks), np.bool_)
    chosen[np.argsort(-worth, kind="stable")[: kept_of(len(blocks), Fraction(pattern.n, pattern.m))]] = True
    return torch.from_numpy(tiling.join([np.broadcast_to(chosen[:, None, None], blocks.shape)]))


def bits_per_weight(model: nn.Module, pattern: Pattern, constraint: str) -> float:
    """Of all pruned layers together."""
    found = [
        tensor_diversity(tuple(cifar.weight_of(model, name).shape), pattern, constraint)
        for name in cifar.prunable(model)
    ]
    return sum(layer.log2 for layer in found) / sum(layer.size for layer in found)


def main(
    data: Annotated[Path, typer.Argument(help="Folder with the trained model and the images.")],
    out: Annotated[Path, typer.Option(help="The CSV file.")] = RESULTS / "diversity_accuracy.csv",
    seeds: Annotated[str, typer.Option(help="Of the calibration images, separated by commas.")] = "0,1,2",
) -> None:
    """Run what the CSV lacks, then draw the figure and print the correlations."""
    torch.set_num_threads(1)
    check_output(out, overwrite=True)
    rows = read_rows(out)
    done = {(row["constraint"], row["pattern"], row["stage"], row["seed"]) for row in rows}
    machine = {"commit": commit(), "threads": os.environ["OMP_NUM_THREADS"]} | environment()
    loaded = cifar.load(data)
    for number in map(int, seeds.split(",")):
        seed = Seed(loaded, number)
        for constraint, text in CONSTRAINTS:
            pattern = Pattern.parse(text)
            masks = {
                name: best_mask(cifar.weight_of(loaded.dense, name), pattern, constraint)
                for name in cifar.prunable(loaded.dense)
            }
            for stage, method in STAGES.items():
                if (constraint, text, stage, str(number)) in done:
                    continue
                pruned = copy.deepcopy(loaded.dense)
                report = reconstruct(
                    pruned,
                    seed.batches,
                    masks,
                    method=method,
                    sequential=False,
                    damping=DAMPING,
                    grams=seed.grams,
                )
                row = {
                    "constraint": constraint,
                    "pattern": text,
                    "stage": stage,
                    "seed": number,
                    "bits_per_weight": bits_per_weight(loaded.dense, pattern, constraint),
                    "top1": loaded.top1(pruned),
                    "retained_mean": statistics.fmean(layer.retained for layer in report.layers),
                    "error_mean": statistics.fmean(layer.error for layer in report.layers),
                    "seconds": report.seconds,
                }
                rows.append(row | machine)
                write_csv(out, rows, overwrite=True)
                print(f"{constraint} {text}, {stage}, seed {number}: {row['top1']:.2%}", flush=True)
    means = averages(read_rows(out))
    for stage in STAGES:
        print(f"Spearman correlation of Top-1 with bits per weight, {stage} AdaPrune: {correlation(means, stage):.3f}")
    print(draw(means, out.with_suffix(".png")))


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
        face, edge = (colour, _INK) if after else ("white", colour)
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
    axes.grid(color="#dddddd")
    axes.set_axisbelow(True)
    axes.set_xlabel("log2 of the number of masks, per weight (bits)")
    axes.set_ylabel("Top-1 (%)")
    axes.set_ylim(top=axes.get_ylim()[1] + 1)
    numbers = ", ".join(f"{correlation(means, stage):.3f} {stage} AdaPrune" for stage in STAGES)
    title = f"ResNet-20 on CIFAR-10, half of the weights kept\nSpearman correlation {numbers}"
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    handles = [
        Line2D([], [], label=name, color=colour, marker=marker, linestyle="none", markersize=9)
        for name, (colour, marker) in _STYLES.items()
    ]
    hollow: dict[str, Any] = {
        "marker": "o",
        "color": "white",
        "markeredgecolor": _INK,
        "linestyle": "none",
        "markersize": 9,
    }
    handles += [Line2D([], [], label="hollow: before AdaPrune", **hollow)]
    axes.legend(handles=handles, loc="lower right", frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return path


if __name__ == "__main__":
    typer.run(main)

"""Does accuracy follow mask diversity? One trained model under many constraints that keep half of the weights.

    python -m bench.diversity_accuracy DATA [--seeds 0,1,2]

Each constraint's mask is the best for |weight| (transposable masks by an exact solver), so the constraints differ in
the freedom that they leave and in nothing else. Accuracy before AdaPrune, with new batch norm statistics, and after it;
as in `bench.adaprune`, every pruning starts from the model as it was trained.
Rows that the CSV holds already are kept; then `bench.diversity_accuracy_report` draws the figure from the CSV alone.
"""

from __future__ import annotations

import copy
import os
import statistics
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor, nn

from bench import cifar, diversity_accuracy_report
from bench.adaprune import DAMPING, Seed
from bench.rows import RESULTS, commit, read_rows
from tmask.blocks.pattern import Pattern
from tmask.blocks.tiling import Tiling
from tmask.comparison.environment import environment
from tmask.diversity import kept_of, tensor_diversity
from tmask.files.atomic import check_output
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


def best_mask(weight: Tensor, pattern: Pattern, constraint: str) -> Tensor:
    """The mask of a constraint that keeps the most of |weight|."""
    scores = weight.detach().abs().numpy()
    if constraint == "unstructured":
        kept = kept_of(scores.size, Fraction(pattern.n, pattern.m))
        mask = np.zeros(scores.size, np.bool_)
        # stable: weights of equal size are chosen the same way on every machine.
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
    diversity_accuracy_report.main(out)


if __name__ == "__main__":
    typer.run(main)

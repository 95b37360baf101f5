"""Accuracy of a pruned ResNet-20 on CIFAR-10: constraint by constraint, one-shot to fine-tuned; one CSV row each.

    python -m bench.adaprune DATA [--stages ...] [--models ...] [--seeds ...]

DATA is a folder with `resnet20_cifar10.safetensors` and `cifar10_small.npz`. Rows are written one by one, and those
that the CSV holds already are kept, so an interrupted run goes on where it stopped. Every model's batch norms are
recomputed on the seed's 1000 images, the dense one's too, except in the stage `one-shot`.
"""

from __future__ import annotations

import copy
import fnmatch
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

from bench import cifar
from bench.run import RESULTS, commit, read_rows
from tmask.cli.report import write_csv
from tmask.environment import environment
from tmask.errors import InvalidProblemError
from tmask.files.atomic import check_output
from tmask.nn import PruningReport, adaprune, collect_grams, convert, recalibrate, reconstruct, sparsegpt
from tmask.nn.gram import Gram
from tmask.nn.refit import Refit

# one-shot: mask alone. batch-norm: with new statistics. independent, adam, sequential: AdaPrune, by least squares on
# the dense model's inputs, by Adam on the same, and by least squares layer after layer. sparsegpt: a sweep in place of
# a mask by magnitude. fine-tuned: one epoch after `independent`.
STAGES = ("one-shot", "batch-norm", "independent", "sequential", "adam", "sparsegpt", "wanda", "obs", "fine-tuned")
CONFIDENCE = 0.9


@dataclass(frozen=True, slots=True)
class Model:
    """A constraint, and the solver of its masks.

    Args:
        structure: dense, unstructured, plain, transposable, or one of the two last "from" an unstructured model.
        pattern: N:M; the density of an unstructured model.
        solver: of transposable masks.
    """

    structure: str
    pattern: str = ""
    solver: str = ""

    @property
    def name(self) -> str:
        """Unique."""
        return " ".join(text for text in (self.structure, self.pattern, self.solver) if text)

    @property
    def converted(self) -> bool:
        """Whether it starts from an unstructured model."""
        return self.structure.endswith("from unstructured")

    @property
    def stages(self) -> tuple[str, ...]:
        """Those that make sense for it."""
        if self.structure == "dense":
            return ("one-shot", "batch-norm", "fine-tuned")
        if self.converted:
            return ("one-shot", "batch-norm", "sequential")
        if self.structure == "unstructured":
            return ("one-shot", "batch-norm", "independent", "sequential", "fine-tuned")
        return tuple(s for s in STAGES if s != "sparsegpt" or self.solver != "greedy-keep")


MODELS = (
    Model("dense"),
    Model("unstructured", "50%"),
    Model("plain", "2:4"),
    Model("plain", "4:8"),
    *(
        Model("transposable", pattern, solver)
        for pattern in ("2:4", "4:8", "8:16")
        for solver in ("auto", "greedy-keep")
    ),
    Model("unstructured", "40%"),
    Model("unstructured", "30%"),
    *(
        Model(f"{structure} from unstructured", kept)
        for kept in ("50%", "40%", "30%")
        for structure in ("plain", "transposable")
    ),
)


class Seed:
    """One draw of calibration images, and what is computed from it once."""

    def __init__(self, data: cifar.Cifar, seed: int) -> None:
        self.data, self.seed = data, seed
        self.batches = data.calibration(seed)

    @cached_property
    def dense(self) -> nn.Module:
        """The dense model with the statistics of these images."""
        model = copy.deepcopy(self.data.dense)
        recalibrate(model, self.batches)
        return model

    @cached_property
    def grams(self) -> dict[str, Gram]:
        """Of the dense model."""
        return collect_grams(self.dense, self.batches)

    def unstructured(self, kept: str) -> dict[str, Tensor]:
        """Masks: at half of the weights in every layer alike, below that by one threshold for all layers."""
        density = float(kept.rstrip("%")) / 100
        return cifar.largest(self.dense, density, per_layer=density == 0.5)

    def source(self, kept: str) -> nn.Module:
        """The unstructured model to convert: one threshold for all layers, kept weights refitted."""
        model = copy.deepcopy(self.dense)
        masks = cifar.largest(model, float(kept.rstrip("%")) / 100, per_layer=False)
        reconstruct(model, self.batches, masks, sequential=False, grams=self.grams)
        return model

    def prune(self, model: Model, stage: str) -> tuple[nn.Module, PruningReport | None]:
        """A model at a stage."""
        if model.structure == "dense":
            pruned = copy.deepcopy(self.data.dense if stage == "one-shot" else self.dense)
            if stage == "fine-tuned":
                self.data.fine_tune(pruned, {}, self.seed)
            return pruned, None
        if stage == "fine-tuned":
            pruned, report = self.prune(model, "independent")
            assert report is not None
            self.data.fine_tune(pruned, report.masks, self.seed)
            return pruned, report
        if model.converted:
            pruned = self.source(model.pattern)
            transposable = model.structure.startswith("transposable")
            found = convert(
                pruned,
                self.batches,
                confidence=CONFIDENCE,
                transposable=transposable,
                method="least-squares" if stage == "sequential" else "none",
                sequential=stage == "sequential",
                update_batch_norm=stage != "one-shot",
            )
            return pruned, found.pruning
        pruned = copy.deepcopy(self.data.dense if stage == "one-shot" else self.dense)
        return pruned, self._prune_dense(pruned, model, stage)

    def _prune_dense(self, pruned: nn.Module, model: Model, stage: str) -> PruningReport:
        sequential = stage in ("sequential", "sparsegpt")
        refits: dict[str, Refit] = {"one-shot": "none", "batch-norm": "none", "adam": "adam"}
        refit = refits.get(stage, "least-squares")
        common: dict[str, Any] = {
            "sequential": sequential,
            "update_batch_norm": stage != "one-shot",
        }
        if model.structure == "unstructured":
            grams = None if sequential else self.grams
            return reconstruct(
                pruned, self.batches, self.unstructured(model.pattern), method=refit, grams=grams, **common
            )
        common["transposable"] = model.structure == "transposable"
        common["solver"] = model.solver or "auto"
        if stage == "sparsegpt":
            return sparsegpt(pruned, self.batches, model.pattern, **common)
        return adaprune(
            pruned,
            self.batches,
            model.pattern,
            method=refit,
            score=stage if stage in ("wanda", "obs") else "magnitude",
            fold=refit != "none",
            grams=None if sequential else self.grams,
            **common,
        )


def main(
    data: Annotated[Path, typer.Argument(help="Folder with the trained model and the images.")],
    out: Annotated[Path, typer.Option(help="The CSV file to write, and to go on with.")] = RESULTS / "adaprune.csv",
    models: Annotated[str, typer.Option(help="Globs on names of models, separated by commas.")] = "*",
    stages: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(STAGES),
    seeds: Annotated[str, typer.Option(help="Of the calibration images, separated by commas.")] = "0,1,2",
) -> None:
    """Run the benchmark, and write its report."""
    torch.set_num_threads(1)
    globs, wanted = models.split(","), stages.split(",")
    if unknown := [stage for stage in wanted if stage not in STAGES]:
        raise InvalidProblemError(f"no stage {unknown[0]!r}; there are: {', '.join(STAGES)}")
    check_output(out, overwrite=True)
    rows = read_rows(out)
    done = {(row["model"], row["stage"], row["seed"]) for row in rows}
    machine = {"commit": commit(), "threads": os.environ["OMP_NUM_THREADS"]} | environment()
    loaded = cifar.load(data)
    for number in map(int, seeds.split(",")):
        seed = Seed(loaded, number)
        for model, stage in _jobs(globs, wanted):
            if (model.name, stage, str(number)) in done:
                continue
            start = time.perf_counter()
            pruned, report = seed.prune(model, stage)
            seconds = time.perf_counter() - start
            row = _row(model, stage, number, loaded.top1(pruned), pruned, report, seconds)
            rows.append(row | machine)
            write_csv(out, rows, overwrite=True)
            print(f"{model.name}, {stage}, seed {number}: {row['top1']:.2%} ({seconds:.0f} s)", flush=True)


def _jobs(globs: list[str], stages: list[str]) -> Iterator[tuple[Model, str]]:
    for stage in stages:
        for model in MODELS:
            if stage in model.stages and any(fnmatch.fnmatch(model.name, glob) for glob in globs):
                yield model, stage


def _row(
    model: Model, stage: str, seed: int, top1: float, pruned: nn.Module, report: PruningReport | None, seconds: float
) -> dict[str, Any]:
    layers = () if report is None else report.layers
    weights = torch.cat([cifar.weight_of(pruned, name).detach().flatten() for name in cifar.prunable(pruned)])

    def mean(values: list[float]) -> float | str:
        return float(np.mean(values)) if values else ""

    return {
        "model": model.name,
        "structure": model.structure,
        "pattern": model.pattern,
        "solver": model.solver,
        "stage": stage,
        "seed": seed,
        "top1": top1,
        "nonzero": float((weights != 0).double().mean()),
        "retained_mean": mean([row.retained for row in layers]),
        "gap_mean": mean([row.optimality_gap for row in layers if row.optimality_gap is not None]),
        "error_masked_mean": mean([row.error_masked for row in layers]),
        "error_mean": mean([row.error for row in layers]),
        "patterns": " ".join(row.pattern for row in layers),
        "seconds": seconds,
    }


if __name__ == "__main__":
    typer.run(main)

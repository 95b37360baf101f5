"""Accuracy of a pruned ResNet-20 on CIFAR-10: constraint by constraint, one-shot to fine-tuned; one CSV row each.

    python -m bench.adaprune DATA [--stages ...] [--models ...] [--seeds ...]

DATA is a folder with `resnet20_cifar10.safetensors` and `cifar10_small.npz`. Rows are written one by one, and those
that the CSV holds already are kept, so an interrupted run goes on where it stopped.

Every pruning starts from the model as it was trained, with its own running statistics: its outputs under them are what
layers are refitted to. The pruned models get new statistics on the seed's 1000 images, except in the stage `one-shot`;
the dense model is shown with its own, with new ones, and with new ones and weights refitted to them.
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
from torch import nn

from bench import cifar
from bench.rows import RESULTS, commit, read_rows
from tmask.comparison.environment import environment
from tmask.errors import InvalidProblemError
from tmask.files.atomic import check_output
from tmask.files.csv_files import write_csv
from tmask.nn import PruningReport, adaprune, collect_grams, convert, recalibrate, reconstruct, sparsegpt
from tmask.nn.calibration.gram import Gram
from tmask.nn.fitting.refit import Refit

# one-shot: mask alone. batch-norm: with new statistics. independent, adam, sequential: AdaPrune, by least squares on
# the dense model's inputs, by Adam on the same, and by least squares layer after layer. sparsegpt: a sweep in place of
# a mask by magnitude. wanda, obs: independent, with masks by these scores. fine-tuned: one epoch after `independent`.
STAGES = ("one-shot", "batch-norm", "independent", "sequential", "adam", "sparsegpt", "wanda", "obs", "fine-tuned")
# Run for the first seed alone, since it sees no calibration images.
ONCE = ("one-shot",)
CONFIDENCE = 0.9
# What the rows in the CSV were run with, so that an interrupted run goes on with the same.
DAMPING = 1e-3
SWEEP_DAMPING = 1e-2  # of sparsegpt


@dataclass(frozen=True, slots=True)
class Model:
    """A constraint, and the solver of its masks.

    Args:
        structure: dense, unstructured, plain, transposable, or one of the two last "from" an unstructured model.
        pattern: N:M; the share that an unstructured model keeps, in each layer or by one threshold for all.
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
        """Those that are run for it."""
        if self.structure == "dense":
            return ("one-shot", "batch-norm", "sequential", "fine-tuned")
        if self.converted:
            return ("batch-norm", "independent", "fine-tuned")
        if self.structure == "transposable" and self.solver == "auto":
            return STAGES
        common = ("one-shot", "batch-norm", "independent")
        if self.structure == "unstructured" and not self.per_layer:
            return common
        return (*common, "sequential", "fine-tuned")

    @property
    def per_layer(self) -> bool:
        """Whether an unstructured model keeps the same share of each layer."""
        return self.pattern.endswith("of each layer")

    @property
    def kept(self) -> float:
        """The share that an unstructured model keeps."""
        return float(self.pattern.partition("%")[0]) / 100


_SHARES = ("50%", "40%", "30%")
MODELS = (
    Model("dense"),
    Model("unstructured", "50% of each layer"),
    Model("plain", "2:4"),
    Model("plain", "4:8"),
    *(
        Model("transposable", pattern, solver)
        for pattern in ("2:4", "4:8", "8:16")
        for solver in ("auto", "greedy-keep")
    ),
    *(Model("unstructured", share) for share in _SHARES),
    *(Model(f"{structure} from unstructured", share) for share in _SHARES for structure in ("plain", "transposable")),
)


class Seed:
    """One draw of calibration images, and what is computed from it once."""

    def __init__(self, data: cifar.Cifar, seed: int) -> None:
        self.data, self.seed = data, seed
        self.batches = data.calibration(seed)
        self._refitted: dict[Model, tuple[nn.Module, PruningReport]] = {}
        self._sources: dict[str, dict[str, Gram]] = {}

    @cached_property
    def grams(self) -> dict[str, Gram]:
        """Of the dense model."""
        return collect_grams(self.data.dense, self.batches)

    def prune(self, model: Model, stage: str) -> tuple[nn.Module, PruningReport | None]:
        """A model at a stage."""
        # Kept: fine-tuning and converted models start from it.
        if stage == "independent":
            if model not in self._refitted:
                self._refitted[model] = self._prune(model, stage)
            return self._refitted[model]
        if model.structure == "dense":
            pruned: nn.Module = copy.deepcopy(self.data.dense)
            if stage == "sequential":
                # What the refit does where nothing was removed: weights that make up for the new statistics.
                masks = {name: torch.ones_like(cifar.weight_of(pruned, name)) > 0 for name in cifar.prunable(pruned)}
                return pruned, reconstruct(pruned, self.batches, masks, damping=DAMPING)
            if stage == "batch-norm":
                recalibrate(pruned, self.batches)
            elif stage == "fine-tuned":
                self.data.fine_tune(pruned, {}, self.seed)
            return pruned, None
        if stage == "fine-tuned":
            before, report = self.prune(model, "independent")
            assert report is not None
            # Fine-tuning works in place, and the kept model must stay as it is.
            pruned = copy.deepcopy(before)
            self.data.fine_tune(pruned, report.masks, self.seed)
            return pruned, report
        return self._prune(model, stage)

    def _prune(self, model: Model, stage: str) -> tuple[nn.Module, PruningReport]:
        if model.converted:
            return self._convert(model, stage)
        pruned: nn.Module = copy.deepcopy(self.data.dense)
        return pruned, self._prune_dense(pruned, model, stage)

    def _convert(self, model: Model, stage: str) -> tuple[nn.Module, PruningReport]:
        source, _ = self.prune(Model("unstructured", model.pattern), "independent")
        if model.pattern not in self._sources:
            self._sources[model.pattern] = collect_grams(source, self.batches)
        pruned = copy.deepcopy(source)
        report = convert(
            pruned,
            self.batches,
            confidence=CONFIDENCE,
            transposable=model.structure.startswith("transposable"),
            method="none" if stage == "batch-norm" else "least-squares",
            sequential=False,
            damping=DAMPING,
            grams=self._sources[model.pattern],
        )
        return pruned, report.pruning

    def _prune_dense(self, pruned: nn.Module, model: Model, stage: str) -> PruningReport:
        sequential = stage in ("sequential", "sparsegpt")
        refits: dict[str, Refit] = {"one-shot": "none", "batch-norm": "none", "adam": "adam"}
        refit = refits.get(stage, "least-squares")
        common: dict[str, Any] = {
            "sequential": sequential,
            "damping": SWEEP_DAMPING if stage == "sparsegpt" else DAMPING,
            "update_batch_norm": stage != "one-shot",
        }
        if model.structure == "unstructured":
            grams = None if sequential else self.grams
            masks = cifar.largest(pruned, model.kept, per_layer=model.per_layer)
            return reconstruct(pruned, self.batches, masks, method=refit, grams=grams, **common)
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
    globs, wanted, numbers = models.split(","), stages.split(","), [int(text) for text in seeds.split(",")]
    if unknown := [stage for stage in wanted if stage not in STAGES]:
        raise InvalidProblemError(f"no stage {unknown[0]!r}; there are: {', '.join(STAGES)}")
    check_output(out, overwrite=True)
    rows = read_rows(out)
    done = {(row["model"], row["stage"], row["seed"]) for row in rows}
    machine = {"commit": commit(), "threads": os.environ["OMP_NUM_THREADS"]} | environment()
    loaded = cifar.load(data)
    for number in numbers:
        seed = Seed(loaded, number)
        for model, stage in _jobs(globs, [stage for stage in wanted if stage not in ONCE or number == numbers[0]]):
            if (model.name, stage, str(number)) in done:
                continue
            start = time.perf_counter()
            pruned, report = seed.prune(model, stage)
            seconds = time.perf_counter() - start
            row = _row(model, stage, number, loaded.top1(pruned), pruned, report, seconds)
            rows.append(row | machine)
            # After each row, since an interrupted run goes on from what the file holds.
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

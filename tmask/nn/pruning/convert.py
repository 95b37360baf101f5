"""Turn an unstructured-sparse model into an N:M one: each layer into the pattern that its zeros nearly satisfy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from tmask.blocks.pattern import Pattern
from tmask.conversion import Fit, fitting_pattern
from tmask.errors import InvalidProblemError
from tmask.nn.calibration.batches import Calibration, Forward, evaluating
from tmask.nn.calibration.gram import Gram
from tmask.nn.fitting.prunable import Choice, find_layers
from tmask.nn.fitting.refit import Refit
from tmask.nn.fitting.report import PruningReport
from tmask.nn.pruning.adaprune import adaprune
from tmask.nn.pruning.layerwise import Progress
from tmask.nn.pruning.plans import make_plans
from tmask.solving.solver import Solver


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """A model that was converted.

    Args:
        fits: by layer, those that stay dense because no pattern fits among them.
        pruning: of the layers that were given a pattern.
    """

    fits: dict[str, Fit]
    pruning: PruningReport

    def table(self) -> list[dict[str, Any]]:
        """A row for each layer that was converted: how well its pattern fits, and what pruning did."""
        rows = []
        for row in self.pruning.table():
            fit = self.fits[row["layer"]]
            head = {"layer": row["layer"], "zeros": fit.zeros, "expected": fit.expected, "observed": fit.observed}
            rows.append(head | {key: value for key, value in row.items() if key != "layer"})
        return rows


def convert(
    model: nn.Module,
    calibration: Iterable[Any],
    *,
    m: int = 8,
    confidence: float = 0.9,
    transposable: bool = True,
    solver: Solver | str = "auto",
    score: str = "magnitude",
    method: Refit = "least-squares",
    sequential: bool = True,
    damping: float = 1e-3,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    skip_ends: bool = True,
    update_batch_norm: bool = True,
    grams: Mapping[str, Gram] | None = None,
    forward: Forward | None = None,
    progress: Progress | None = None,
) -> ConversionReport:
    """Convert the layers of an unstructured-sparse model, in place.

    For each layer: the pattern (`tmask.conversion.fitting_pattern`); the mask of it that keeps the most of what the
    layer kept; then AdaPrune, to the outputs of the model as it was given. A mask keeps exactly n of m, so weights
    that were zero can become nonzero where a group had more zeros than it must.

    Args:
        m: side of the tiles.
        confidence: share of the weights whose groups must have zeros enough for a pattern.
    The other arguments are those of `adaprune`.
    Raises:
        InvalidProblemError: no layer has zeros enough for any pattern, and what `adaprune` raises.
    """
    data = Calibration(calibration, forward)
    with evaluating(model):
        layers, skipped = find_layers(model, data, Choice(include, exclude, skip_ends))
    plans, skipped = make_plans(layers, skipped, Pattern(m, m), transposable)
    fits = {
        plan.layer.name: fitting_pattern(
            plan.layer.view.module.weight,
            m,
            transposable=transposable,
            confidence=confidence,
            groups=plan.layer.view.groups,
        )
        for plan in plans
    }
    patterns = {name: fit.pattern for name, fit in fits.items() if not fit.dense}
    if not patterns:
        most = max(fits.values(), key=lambda fit: fit.zeros)
        raise InvalidProblemError(
            f"no layer has zeros enough for any N:{m} at a confidence of {confidence:g} (the sparsest has "
            f"{most.zeros:.1%} zeros); lower the confidence, or choose the pattern yourself and use adaprune"
        )
    report = adaprune(
        model,
        calibration,
        patterns,
        transposable=transposable,
        solver=solver,
        score=score,
        method=method,
        sequential=sequential,
        damping=damping,
        fold=False,
        include=include,
        exclude=exclude,
        skip_ends=skip_ends,
        update_batch_norm=update_batch_norm,
        grams=grams,
        forward=forward,
        progress=progress,
    )
    dense = {name: "no pattern fits its zeros" for name, fit in fits.items() if fit.dense}
    return ConversionReport(
        fits,
        PruningReport(
            report.layers, report.skipped | skipped | dense, report.masks, report.batch_norms, report.seconds
        ),
    )

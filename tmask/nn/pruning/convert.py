"""Turn an unstructured-sparse model into an N:M one: each layer into the pattern that its zeros nearly satisfy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from tmask.blocks.pattern import Pattern
from tmask.conversion import Fit, fitting_pattern
from tmask.errors import InvalidProblemError
from tmask.nn.calibration.batches import Calibration, Forward
from tmask.nn.calibration.gram import Gram
from tmask.nn.calibration.weight_view import WeightView
from tmask.nn.fitting.fit import Plan
from tmask.nn.fitting.layer_filter import LayerFilter
from tmask.nn.fitting.layer_masks import MaskSearch
from tmask.nn.fitting.prunable import find_layers, narrower_than
from tmask.nn.fitting.pruning_report import PruningReport
from tmask.nn.fitting.refit import DAMPING, LEARNING_RATE, STEPS, MaskAndRefit, RefitMethod, Refitting
from tmask.nn.fitting.scores import get_score
from tmask.nn.libraries.offloaded import on_offloaded_too
from tmask.nn.names import ByLayer
from tmask.nn.pruning.layerwise import Settings, prune
from tmask.nn.pruning.patterns import make_plans
from tmask.showing.cards import Card, Shown
from tmask.showing.numbers import percent
from tmask.showing.progress import Progress
from tmask.solving.solver import Solver


@dataclass(frozen=True, slots=True)
class ConversionReport(Shown):
    """A model that was converted.

    Args:
        fits: by layer, those that stay dense because no pattern fits among them.
        pruning: of the layers that were given a pattern.
    """

    fits: ByLayer[Fit]
    pruning: PruningReport

    def table(self) -> list[dict[str, Any]]:
        """A row for each layer that was converted: how well its pattern fits, and what pruning did."""
        rows = []
        for row in self.pruning.table():
            fit = self.fits[row["layer"]]
            head = {"layer": row["layer"], "zeros": fit.zeros, "expected": fit.expected, "observed": fit.observed}
            rows.append(head | {key: value for key, value in row.items() if key != "layer"})
        return rows

    def __repr__(self) -> str:
        return f"<ConversionReport: {len(self.pruning.layers)} of {len(self.fits)} layers converted; print() it>"

    def __str__(self) -> str:
        return self.card().text()

    def card(self) -> Card:
        """What a notebook shows: how each layer's zeros fit, beside what pruning did."""
        card = self.pruning.card()
        rows = [{"layer": row["layer"], "zeros": percent(self.fits[row["layer"]].zeros), **row} for row in card.rows]
        return replace(card, title="Converted, layer by layer", rows=rows)


@on_offloaded_too
def convert(
    model: nn.Module,
    calibration: Iterable[Any],
    *,
    m: int = 8,
    confidence: float = 0.9,
    transposable: bool = True,
    solver: Solver | str = "auto",
    score: str = "magnitude",
    method: RefitMethod = "least-squares",
    sequential: bool = True,
    damping: float = DAMPING,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    skip_ends: bool = True,
    keep_zeros: bool = False,
    update_batch_norm: bool = True,
    certify: bool = True,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    grams: Mapping[str, Gram] | None = None,
    forward: Forward | None = None,
    progress: Progress = None,
) -> ConversionReport:
    """Convert the layers of an unstructured-sparse model, in place.

    For each layer: the pattern (`tmask.conversion.fitting_pattern`); the mask of it that keeps the most of what the
    layer kept; then AdaPrune, to the outputs of the model as it was given. A mask keeps exactly n of m, so weights
    that were zero can become nonzero where a group had more zeros than it must, unless `keep_zeros` is set.

    Args:
        m: side of the tiles.
        confidence: share of the weights whose groups must have zeros enough for a pattern.
    The other arguments are those of `adaprune`. No means are folded: what is removed is mostly zero already.
    Raises:
        InvalidProblemError: no layer has zeros enough for any pattern, and what `adaprune` raises.
    """
    search = MaskSearch(transposable, solver, certify, keep_zeros)
    fit = MaskAndRefit(get_score(score), search, Refitting(method, damping, False, steps, learning_rate))
    settings = Settings(sequential, update_batch_norm, progress, update_bias=method != "none", grams=grams)
    data, wanted = Calibration(calibration, forward), LayerFilter(include, exclude, skip_ends)
    every = Pattern(m, m)
    layers, skipped = find_layers(model, data, wanted, lambda view: narrower_than(view, every, transposable))
    # Every pattern of the answer has this m, so the layers that are too narrow for one are so for all.
    wide, narrow = make_plans(layers, skipped, every, transposable)
    fits = ByLayer({plan.layer.name: _fit_of(plan.layer.view, m, transposable, confidence) for plan in wide})
    plans = [Plan(plan.layer, fits[plan.layer.name].pattern) for plan in wide if not fits[plan.layer.name].dense]
    if not plans:
        most = max(fits.values(), key=lambda found: found.zeros)
        raise InvalidProblemError(
            f"no layer has zeros enough for any N:{m} at a confidence of {confidence:g} (the sparsest has "
            f"{most.zeros:.1%} zeros); lower the confidence, or choose the pattern yourself and use adaprune"
        )
    # They stay as they are, zeros and all, and are listed with the others that were left out.
    dense = {name: "no pattern fits its zeros" for name, found in fits.items() if found.dense}
    return ConversionReport(fits, prune(model, data, plans, skipped | narrow | dense, fit, settings))


def _fit_of(view: WeightView, m: int, transposable: bool, confidence: float) -> Fit:
    # In the shape of the weight, as tiles cross neither groups nor kernel positions.
    weight = view.matrices(view.parameter.detach()).reshape(view.tiled_shape)
    return fitting_pattern(
        weight, m, transposable=transposable, confidence=confidence, groups=view.groups, layout="convolution"
    )

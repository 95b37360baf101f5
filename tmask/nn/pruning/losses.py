"""What each pattern would cost each layer of a model, in the errors of its outputs: what an allocation adds up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError, TmaskError
from tmask.nn.calibration.batches import Calibration, Forward, evaluating
from tmask.nn.calibration.gram import Gram
from tmask.nn.calibration.recording import collect
from tmask.nn.fitting.fit import Plan, without_mean
from tmask.nn.fitting.layer_masks import check_plain
from tmask.nn.fitting.prunable import Choice, find_layers, narrower_than
from tmask.nn.fitting.refit import MaskAndRefit, Refit, Refitting, check_settings
from tmask.nn.fitting.scores import get_score
from tmask.nn.pruning.reconstruct import check_grams
from tmask.solving.solver import Solver


def reconstruction_losses(
    model: nn.Module,
    calibration: Iterable[Any],
    patterns: Iterable[Pattern | str],
    *,
    transposable: bool = True,
    solver: Solver | str = "auto",
    score: str = "magnitude",
    method: Refit = "least-squares",
    damping: float = 1e-3,
    fold: bool = True,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    skip_ends: bool = True,
    grams: Mapping[str, Gram] | None = None,
    forward: Forward | None = None,
) -> dict[str, dict[Pattern, float]]:
    """The error that is left in each layer's outputs under each pattern, after mask and refit; no layer is changed.

    Each is the squared error of a layer's outputs on the calibration data, as a share of their squares (of what varies,
    where a bias or a batch norm takes up the mean), with the inputs of the dense model: the `error` that `adaprune`
    with sequential=False reports, up to rounding. Shares, since the scale of a layer's outputs says nothing about how
    much they matter where a batch norm follows. `tmask.allocation.allocate` takes the result.

    Args:
        patterns: that every layer is offered; one that is wider than a layer is not offered to it.
        grams: what `collect_grams` found for this very model; the data are then read for one batch only.
    The other arguments are those of `adaprune`.
    Returns:
        By the name of the layer, then by pattern; layers that no pattern fits are left out.
    Raises:
        InvalidProblemError: no pattern, none that fits any layer, and what `adaprune` raises.
        UnknownSolverError, SolverUnavailableError, SolverFailedError.
    Cost: one pass; then a mask and a refit for each layer and pattern.
    """
    parsed = list(dict.fromkeys(map(Pattern.parse, patterns)))
    if not parsed:
        raise InvalidProblemError("reconstruction_losses needs at least one pattern")
    check_settings(method, damping)
    check_plain(transposable, solver)
    fit = MaskAndRefit(get_score(score), solver, False, Refitting(method, damping, fold))
    data = Calibration(calibration, forward)
    with evaluating(model):
        layers, _ = find_layers(model, data, Choice(include, exclude, skip_ends))
        check_grams(grams, layers, sequential=False)
        sums = grams or collect(data, model, {layer.name: layer.view for layer in layers})
    losses: dict[str, dict[Pattern, float]] = {}
    for layer in layers:
        offered = [pattern for pattern in parsed if not narrower_than(layer.view, pattern, transposable)]
        gram = sums[layer.name]
        free = without_mean(layer, gram, method != "none", update_batch_norm=True)
        weight = layer.view.matrices(layer.view.module.weight.detach()).to(torch.float64)
        target = float(free.yy.sum())
        for pattern in offered:
            try:
                fitted = fit(Plan(layer, pattern, transposable), gram, free, weight)
            except TmaskError as error:
                raise type(error)(f"layer {layer.name!r}, pattern {pattern}: {error}") from error
            error_left = float(free.errors(fitted.weight).sum())
            losses.setdefault(layer.name, {})[pattern] = error_left / target if target else 0.0
    if not losses:
        raise InvalidProblemError(f"no layer is wide enough for any of {', '.join(map(str, parsed))}")
    return losses

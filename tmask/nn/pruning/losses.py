"""What each pattern would cost each layer of a model, in the errors of its outputs: what an allocation adds up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError, TmaskError
from tmask.nn.calibration.batches import Calibration, Forward
from tmask.nn.calibration.gram import Gram
from tmask.nn.fitting.fit import LayerMethod, Plan, without_mean
from tmask.nn.fitting.layer_filter import LayerFilter
from tmask.nn.fitting.layer_masks import MaskSearch
from tmask.nn.fitting.prunable import Prunable, find_layers, narrower_than
from tmask.nn.fitting.refit import DAMPING, LEARNING_RATE, STEPS, MaskAndRefit, RefitMethod, Refitting
from tmask.nn.fitting.scores import get_score
from tmask.nn.libraries.offloaded import on_offloaded_too
from tmask.nn.names import ByLayer
from tmask.nn.pruning.grams import dense_grams
from tmask.solving.solver import Solver


@on_offloaded_too
def reconstruction_losses(
    model: nn.Module,
    calibration: Iterable[Any],
    patterns: Iterable[Pattern | str],
    *,
    transposable: bool = True,
    solver: Solver | str = "auto",
    score: str = "magnitude",
    method: RefitMethod = "least-squares",
    damping: float = DAMPING,
    fold: bool = True,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    skip_ends: bool = True,
    keep_zeros: bool = False,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
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
    The other arguments are those of `adaprune`.
    Returns:
        By the full name of the layer's weight, then by pattern; layers that no pattern fits are left out.
    Raises:
        InvalidProblemError: no pattern, none that fits any layer, and what `adaprune` raises.
        UnknownSolverError, SolverUnavailableError, SolverFailedError.
    Cost: one pass; then a mask and a refit for each layer and pattern.
    """
    # Once each, in the order that was given.
    parsed = list(dict.fromkeys(map(Pattern.parse, patterns)))
    if not parsed:
        raise InvalidProblemError("reconstruction_losses needs at least one pattern")
    # Not certified: a loss is an error of outputs, and no bound on a mask's score would show in it.
    search = MaskSearch(transposable, solver, not transposable, keep_zeros)
    fit = MaskAndRefit(get_score(score), search, Refitting(method, damping, fold, steps, learning_rate))
    data, wanted = Calibration(calibration, forward), LayerFilter(include, exclude, skip_ends)
    layers, _ = find_layers(model, data, wanted)
    sums = dense_grams(model, data, layers, grams)
    losses = ByLayer[dict[Pattern, float]]()
    # Layers narrower than some patterns stay in, with fewer to choose from.
    for layer in layers:
        offered = [pattern for pattern in parsed if not narrower_than(layer.view, pattern, transposable)]
        # A loss of 1, say, for a pattern that does not fit would let an allocation choose it.
        if offered and sums[layer.name].samples:
            losses[layer.name] = _losses_of(layer, sums[layer.name], offered, fit, update_bias=method != "none")
    if not losses:
        raise InvalidProblemError(f"no layer is wide enough for any of {', '.join(map(str, parsed))}")
    return losses


def _losses_of(
    layer: Prunable, gram: Gram, patterns: Sequence[Pattern], method: LayerMethod, update_bias: bool
) -> dict[Pattern, float]:
    """One layer's loss under each pattern, a batch norm behind it refitted as `adaprune` would."""
    free = without_mean(layer, gram, update_bias, update_batch_norm=True)
    weight, losses = layer.view.weight, {}
    for pattern in patterns:
        try:
            fitted = method(Plan(layer, pattern), gram, free, weight)
        except TmaskError as error:
            raise type(error)(f"layer {layer.name!r}, pattern {pattern}: {error}") from error
        losses[pattern] = free.relative_error(fitted.weight)
    return losses

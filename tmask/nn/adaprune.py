"""AdaPrune: prune a trained model layer by layer, and refit what is kept to what each layer did before.

Source: [Hubara2021], section on AdaPrune; least squares in place of Adam as in [Frantar2022].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tmask.errors import InvalidProblemError
from tmask.nn.calibration import Calibration, Forward, evaluating
from tmask.nn.gram import Gram, collect
from tmask.nn.layer_masks import FoundMask, find_mask
from tmask.nn.least_squares import adam, fold_means, least_squares
from tmask.nn.plans import Patterns, make_plans
from tmask.nn.prunable import Choice, Prunable, find_layers
from tmask.nn.pruning import Fitted, Plan, Progress, Settings, prune
from tmask.nn.pruning_report import PruningReport
from tmask.nn.scores import evaluate, get_score
from tmask.solver import Solver

Refit = Literal["least-squares", "adam", "none"]
REFITS: tuple[Refit, ...] = ("least-squares", "adam", "none")


def adaprune(
    model: nn.Module,
    calibration: Iterable[Any],
    pattern: Patterns,
    *,
    transposable: bool = True,
    solver: Solver | str = "auto",
    score: str = "magnitude",
    method: Refit = "least-squares",
    sequential: bool = True,
    damping: float = 1e-3,
    fold: bool = True,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    skip_ends: bool = True,
    update_batch_norm: bool = True,
    certify: bool = True,
    steps: int = 1000,
    learning_rate: float = 1e-3,
    grams: Mapping[str, Gram] | None = None,
    forward: Forward | None = None,
    progress: Progress | None = None,
) -> PruningReport:
    """Give the linear and convolution layers of a model N:M masks, and refit their weights, in place.

    For each layer: a mask by the solver for the score; the mean of the removed weights folded into the kept ones (for
    the outputs that gain by it); then the kept weights that come nearest to the outputs of the original layer on the
    calibration data, and the bias likewise. At the end the statistics of batch norms are recomputed.

    Args:
        model: on any device, in any floating dtype; sums and solutions are float64.
        calibration: batches of inputs that can be read several times (a list, a DataLoader): tensors, tuples (the
            model's arguments) or mappings (its keyword arguments). A thousand images or so.
        pattern: n kept of every m, or patterns by the names of layers, which are then the only ones pruned.
        transposable: along inputs and outputs; else along the inputs alone.
        solver: of transposable masks, as in `tmask.solve`.
        score: see `available_scores`.
        method: "least-squares" (exact), "adam" (as in the paper), or "none" (mask and folded means only).
        sequential: each layer reads what the layers pruned before it give, so that it can make up for their errors;
            a pass for each layer. Else all layers read the original model, in one pass: faster, less accurate.
        damping: share of the mean squared input by which weights are drawn to where they start; see
            `tmask.nn.least_squares`.
        fold: fold means.
        include, exclude: globs on names of layers.
        skip_ends: leave the first convolution and the classifier dense unless they are included.
        update_batch_norm: recompute running statistics on the calibration data.
        certify: prove how far each mask may be from the best.
        steps, learning_rate: of Adam.
        grams: what `collect_grams` found for this very model, to prune copies of it several times after one pass;
            with sequential=False alone. The data are then read for batch norms only.
        forward: how a batch goes through the model, called with both; for batches of another form.
        progress: called with layers done, their number, and the name of the next ("" at the end).
    Raises:
        InvalidProblemError: unusable data, settings or layers; names the layer. The model is then as it was.
        UnknownSolverError, SolverUnavailableError, SolverFailedError.
    Cost: sequential, half a pass of two models for each layer, else one pass; S C^2 for each layer's Gram matrix,
        which is C^2 numbers; and that of the method, see `tmask.nn.least_squares`.
    """
    chosen = get_score(score)
    check_settings(method, damping, steps, learning_rate)
    data = Calibration(calibration, forward)
    with evaluating(model):
        layers, skipped = find_layers(model, data, Choice(include, exclude, skip_ends))
    plans, skipped = make_plans(layers, skipped, pattern, transposable)
    _check_grams(grams, [plan.layer for plan in plans], sequential)
    refit = _Refit(method, damping, fold, steps, learning_rate)

    def fit(plan: Plan, gram: Gram, weight: Tensor) -> Fitted:
        assert plan.pattern is not None
        scores = evaluate(chosen, weight, gram, damping)
        found = find_mask(plan.layer.view, scores, plan.pattern, plan.transposable, solver, certify)
        return Fitted(refit(plan, gram, weight, found.mask), found)

    return prune(model, data, plans, skipped, fit, Settings(sequential, update_batch_norm, progress, grams))


def collect_grams(model: nn.Module, calibration: Iterable[Any], *, forward: Forward | None = None) -> dict[str, Gram]:
    """The sums over the calibration data of every linear and convolution layer that can be pruned, by name.

    Several prunings of one model (other patterns, scores, solvers) can share them: `adaprune(copy.deepcopy(model), ...,
    sequential=False, grams=grams)`.

    Raises:
        InvalidProblemError: unusable data, or no layer.
    Cost: one pass.
    """
    data = Calibration(calibration, forward)
    with evaluating(model):
        layers, _ = find_layers(model, data, Choice(skip_ends=False))
        return collect(data, model, {layer.name: layer.view for layer in layers})


def reconstruct(
    model: nn.Module,
    calibration: Iterable[Any],
    masks: Mapping[str, Tensor],
    *,
    method: Refit = "least-squares",
    sequential: bool = True,
    damping: float = 1e-3,
    update_batch_norm: bool = True,
    steps: int = 1000,
    learning_rate: float = 1e-3,
    grams: Mapping[str, Gram] | None = None,
    forward: Forward | None = None,
    progress: Progress | None = None,
) -> PruningReport:
    """The same refit for masks from elsewhere, of any kind of sparsity, in place.

    Args:
        masks: by the names of layers, bool in the shape of the weight, True = kept.
    The other arguments, and what is raised, are those of `adaprune`. No means are folded: there are no groups.
    """
    check_settings(method, damping, steps, learning_rate)
    data = Calibration(calibration, forward)
    if not masks:
        raise InvalidProblemError("masks is empty; give at least one layer's")
    with evaluating(model):
        layers, skipped = find_layers(model, data, Choice(include=[_literal(name) for name in masks]))
    for name in masks:
        if name in skipped:
            raise InvalidProblemError(f"layer {name!r} cannot be pruned: {skipped[name]}")
    for layer in layers:
        mask, shape = masks[layer.name], layer.view.module.weight.shape
        if mask.dtype != torch.bool or mask.shape != shape:
            raise InvalidProblemError(
                f"layer {layer.name!r}: its mask is {mask.dtype} of shape {tuple(mask.shape)}; give bool {tuple(shape)}"
            )
    _check_grams(grams, layers, sequential)
    refit = _Refit(method, damping, False, steps, learning_rate)

    def fit(plan: Plan, gram: Gram, weight: Tensor) -> Fitted:
        mask = plan.layer.view.matrices(masks[plan.layer.name]).to(weight.device)
        total = float(weight.abs().sum())
        retained = float((weight.abs() * mask).sum()) / total if total else 1.0
        return Fitted(refit(plan, gram, weight, mask), FoundMask(mask, retained, None, ""))

    plans = [Plan(layer, None, False) for layer in layers]
    return prune(model, data, plans, skipped, fit, Settings(sequential, update_batch_norm, progress, grams))


@dataclass(frozen=True, slots=True)
class _Refit:
    """From the weights of a layer to those on a mask."""

    method: Refit
    damping: float
    fold: bool
    steps: int
    learning_rate: float

    def __call__(self, plan: Plan, gram: Gram, weight: Tensor, mask: Tensor) -> Tensor:
        start = weight * mask
        if self.fold and plan.pattern is not None:
            folded = fold_means(weight, mask, plan.pattern.m, plan.layer.view.positions)
            better = gram.errors(folded) < gram.errors(start)
            start = torch.where(better[:, :, None], folded, start)
        if self.method == "least-squares":
            return least_squares(gram, start, mask, self.damping)
        if self.method == "adam":
            return adam(gram, start, mask, self.steps, self.learning_rate)
        return start


def check_settings(method: str, damping: float, steps: int, learning_rate: float) -> None:
    """Refuse what cannot be meant."""
    if method not in REFITS:
        raise InvalidProblemError(f"method {method!r}: choose one of {', '.join(REFITS)}")
    if not 0 <= damping < float("inf"):
        raise InvalidProblemError(f"damping {damping!r} must be a number, at least 0")
    if steps < 1 or not 0 < learning_rate < float("inf"):
        raise InvalidProblemError(f"steps {steps!r} and learning_rate {learning_rate!r} must be positive")


def _check_grams(grams: Mapping[str, Gram] | None, layers: list[Prunable], sequential: bool) -> None:
    """Refuse sums that would be ignored, or belong to other layers."""
    if grams is None:
        return
    if sequential:
        raise InvalidProblemError("grams are those of the dense model; give sequential=False to use them")
    for layer in layers:
        groups, rows, cols = layer.view.shape
        gram = grams.get(layer.name)
        if gram is None or gram.xy.shape != (groups, cols, rows):
            raise InvalidProblemError(f"grams hold nothing for layer {layer.name!r}; collect them from the same model")


def _literal(name: str) -> str:
    """A glob that matches this name alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)

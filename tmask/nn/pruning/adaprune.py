"""AdaPrune: prune a trained model layer by layer, and refit what is kept to what each layer did before.

Source: [Hubara2021], section on AdaPrune; least squares in place of Adam as in [Frantar2022].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from tmask.nn.calibration.batches import Calibration, Forward
from tmask.nn.calibration.gram import Gram
from tmask.nn.fitting.layer_filter import LayerFilter
from tmask.nn.fitting.layer_masks import MaskSearch
from tmask.nn.fitting.pruning_report import PruningReport
from tmask.nn.fitting.refit import DAMPING, LEARNING_RATE, STEPS, MaskAndRefit, RefitMethod, Refitting
from tmask.nn.fitting.scores import get_score
from tmask.nn.libraries.offloaded import on_offloaded_too
from tmask.nn.pruning.layerwise import Settings
from tmask.nn.pruning.patterns import LayerPatterns, prune_to_patterns
from tmask.showing.progress import Progress
from tmask.solving.solver import Solver


@on_offloaded_too
def adaprune(
    model: nn.Module,
    calibration: Iterable[Any],
    pattern: LayerPatterns,
    *,
    transposable: bool = True,
    solver: Solver | str = "auto",
    score: str = "magnitude",
    method: RefitMethod = "least-squares",
    sequential: bool = True,
    damping: float = DAMPING,
    fold: bool = True,
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
) -> PruningReport:
    """Give the linear and convolution layers of a model N:M masks, and refit their weights, in place.

    For each layer: a mask by the solver for the score; the mean of the removed weights folded into the kept ones (for
    the outputs that gain by it); then the kept weights that come nearest to the outputs of the original layer on the
    calibration data, and the bias likewise. At the end the statistics of batch norms are recomputed.

    Args:
        model: on any device, in any floating dtype; sums and solutions are float64.
        calibration: batches of inputs that can be read several times (a list, a DataLoader): tensors, tuples (the
            model's arguments) or mappings (its keyword arguments). A thousand images or so.
        pattern: n kept of every m, or patterns by the names of layers or their weights, which are then the only ones
            pruned, and count as included.
        transposable: along inputs and outputs; else along the inputs alone.
        solver: of transposable masks alone, as in `tmask.solve`.
        score: see `available_scores`.
        method: "least-squares" (exact), "adam" (as in the paper), or "none" (mask and folded means only; biases
            stay as they are).
        sequential: each layer reads what the layers pruned before it give, so that it can make up for their errors;
            a pass for each layer. Else all layers read the original model, in one pass: faster, less accurate, and the
            way where the data decide which layer a sample goes to (rows of two models could not be paired then).
        damping: share of the mean squared input that is added to the diagonal of X^T X. In least squares it draws the
            weights to where they start; 0 is refused where inputs depend on one another, or samples are too few.
        fold: fold means.
        include, exclude: globs on names of layers.
        skip_ends: leave the first convolution and the classifier dense unless they are included.
        keep_zeros: weights that are 0 already are never kept, so that groups keep at most n.
        update_batch_norm: recompute running statistics on the calibration data.
        certify: prove how far each transposable mask may be from the best.
        steps, learning_rate: of Adam; with method="adam" alone.
        grams: what `collect_grams` found for this very model, to prune copies of it several times after one pass;
            with sequential=False alone. The data are then read for the order of layers and for batch norms only.
        forward: how a batch goes through the model, called with both; for batches of another form.
        progress: True for a bar; or called with layers done, their number, and the name of the next ("" at the end).
    Raises:
        InvalidProblemError: unusable data, settings or layers; names the layer. The model is then as it was.
        UnknownSolverError, SolverUnavailableError, SolverFailedError.
    Cost: sequential, half a pass of two models for each layer, else one pass; S C^2 for each layer's Gram matrix,
        which is C^2 numbers; and that of the method, see `tmask.nn.fitting.least_squares`.
    """
    # Settings before data: what cannot be meant is refused before anything is read.
    search = MaskSearch(transposable, solver, certify, keep_zeros)
    fit = MaskAndRefit(get_score(score), search, Refitting(method, damping, fold, steps, learning_rate))
    data, wanted = Calibration(calibration, forward), LayerFilter(include, exclude, skip_ends)
    # Without a refit the bias stays too: what the mask alone does is what was asked for.
    settings = Settings(sequential, update_batch_norm, progress, update_bias=method != "none", grams=grams)
    return prune_to_patterns(model, data, pattern, transposable, wanted, fit, settings)

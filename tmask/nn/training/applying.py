"""`sparsify`: the one call that turns a model's training sparse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from tmask import MaskRecord
from tmask.errors import InvalidProblemError
from tmask.nn.distributed.attendance import attend
from tmask.nn.distributed.ranks import Ranks, check_same, joining, together
from tmask.nn.layers.eligibility import select_layers
from tmask.nn.layers.finding import MaskFinder, ScoreFn
from tmask.nn.layers.layer import SparseLayer
from tmask.nn.layers.renewals import LayerReport, Renewal
from tmask.nn.layers.rules import Filter, LayerRules, PatternRules
from tmask.nn.layers.settling import choose
from tmask.nn.names import full_name, weight_name
from tmask.nn.packing.backends import check_backend
from tmask.nn.training.arguments import check_arguments
from tmask.nn.training.decay import MaskedDecay
from tmask.nn.training.schedules import Frozen, Schedule
from tmask.nn.training.sparsifier import Sparsifier
from tmask.nn.training.watching import check_optimizers
from tmask.solving.registry import get_solver
from tmask.solving.solver import Solver


def sparsify(
    model: nn.Module,
    pattern: PatternRules = "2:4",
    *,
    solver: Solver | str = "auto",
    schedule: Schedule = Frozen(),  # noqa: B008 - immutable
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    filter_fn: Filter | None = None,
    backend: str = "auto",
    score: ScoreFn | None = None,
    masks: Mapping[str, Any] | None = None,
    decay: MaskedDecay | None = None,
    certify: bool = True,
    keep_zeros: bool = False,
    hysteresis: float = 0.0,
    smoothing: float = 0.0,
    on_renewal: Callable[[Renewal], object] | None = None,
    distributed: Any = None,
    check_finite_every: int | None = None,
    tokens: int | None = None,
    cuda_graphs: bool = False,
) -> Sparsifier:
    """Put transposable N:M masks on a model's weights, in place, and keep them up to date while it trains.

    Forward and backward multiply with where(mask, W, 0); the dense W stays the parameter that optimizers see, the
    same object as before. Weights of Linear, convolutions (grouped too), MultiheadAttention, GPT-2's Conv1D and fused
    experts are eligible, tied ones once; everything else is skipped and listed in `report()`. Routers of experts,
    output heads and embeddings stay dense as long as nobody asks for them.

    Args:
        pattern: n kept of every m, as "2:4" or `Pattern`, or a mapping from globs to patterns (the first match
            counts). A glob matches a parameter's full name, or that of any module around it.
        solver: a name (see `tmask.available_solvers`), "auto" for the fastest exact one here, or a Solver.
        schedule: `Frozen()` or `Periodic(...)`.
        optimizer: watched by hooks, or several that share the weights between them; without it, call `step()` on the
            result after every optimizer step.
        include, exclude: globs. Other ones than "*" ask for output heads and embeddings that they match, and for
            routers whose full names they are; so do the globs of a mapping of patterns, and the names in `masks`.
        filter_fn: called with the module and the layer's name; True = mask it.
        backend: "masked", "semi_structured" or "auto"; see `tmask.nn.packing.backends`.
        score: called with a layer's name and dense weight, gives the importance to maximise in place of |W|.
        masks: by layer, in place of the first ones that the solver would find; bool, True = kept. It takes what
            `report.masks` of a pruning and `tmask.read_masks` give.
        decay: of masked-out weights.
        certify: prove an optimality gap at each renewal; free with exact solvers.
        keep_zeros: weights that are 0 at a renewal are never kept, and stay 0 between renewals, so that lines keep at
            most n; with it, so may given masks.
        hysteresis: bonus, as a share of their scores, of entries that are kept already: at a renewal others take
            their places only where they gain more than that. Masks stay exact for scores with the bonus, by which
            their worth is then told.
        smoothing: share, from 0 to 1, of the price of its row and column by which a kept entry shrinks, so that it is
            near 0 when it changes sides; 1 is S-STE [Hu2024b]. Thresholds are taken at renewals.
        on_renewal: called with the figures of each renewal, the first included.
        distributed: the process group that trains the model together; None or True for all processes where
            torch.distributed runs, False where each trains a model of its own. Ranks of which some are given False for
            the same model are refused.
        check_finite_every: steps between two looks for weights that are NaN or infinite, 0 for none but at renewals;
            None for every step where the weights are on the CPU and every 40 on a GPU, which has to be waited for.
        tokens: in a batch of one device, for which backend "auto" measures. If None, 8192, and then once more those of
            each layer's first batch, after that batch's step.
        cuda_graphs: whether the training step is captured in a CUDA graph (`GraphedStep`, torch.compile with
            mode="reduce-overhead"), so that "auto" measures in one.
    Returns:
        The Sparsifier.
    Raises:
        InvalidProblemError: nothing is eligible, a glob or a setting that fits nothing, a model that is sparsified
            already, an optimizer that does not hold the weights, a backend that cannot run a layer, masks that do not
            fit. The model is then as it was.
        RanksDifferError: processes hold other layers, weights or masks.
        InvalidMaskError: a given mask is not transposable N:M.
        UnknownSolverError, SolverUnavailableError, SolverFailedError: as `tmask.solve`.
    """
    ranks = Ranks.of(distributed)
    alone = attend(model, distributed, ranks)
    # On all ranks or none: one that refuses its arguments alone would leave the others waiting at the first renewal.
    with together(ranks):
        check_arguments(
            model=model,
            solver=solver,
            schedule=schedule,
            include=include,
            exclude=exclude,
            filter_fn=filter_fn,
            score=score,
            masks=masks,
            decay=decay,
            keep_zeros=keep_zeros,
            hysteresis=hysteresis,
            smoothing=smoothing,
            on_renewal=on_renewal,
            check_finite_every=check_finite_every,
        )
        check_backend(backend)
        if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1):
            raise InvalidProblemError(f"tokens={tokens!r}: give the tokens in a batch, 1 or more")
        rules = LayerRules.parse(pattern, include, exclude, filter_fn)
        # Whoever gives a layer's mask asks for one.
        named = [name for given in map(str, masks or ()) for name in (given, weight_name(given))]
        layers, skipped = select_layers(model, rules, named)
        finder = MaskFinder(_checked_solver(solver, layers), score, certify, keep_zeros, hysteresis)
        for layer in layers:
            layer.requested, layer.graphs = backend, cuda_graphs
            layer.tokens = layer.tokens if tokens is None else tokens
            choose(layer)
        if masks is not None:
            masks = _by_full_name(masks, layers)
            _check_masks(masks, layers, skipped, schedule)
        optimizers = _listed(optimizer)
        # An empty list is an error, and not the same as no optimizer.
        if optimizer is not None:
            check_optimizers(optimizers, layers)
    if ranks is not None:
        _check_alike(ranks, layers, schedule, decay, check_finite_every, certify, masks)
    # Nothing of the model has been changed up to here.
    sparsifier = Sparsifier(
        layers, skipped, finder, schedule, decay, on_renewal, distributed, check_finite_every, smoothing
    )
    sparsifier.alone = alone
    with joining(ranks):
        _start(sparsifier, masks, optimizers)
    if alone is not None:
        alone.note()
    return sparsifier


def _check_alike(
    ranks: Ranks,
    layers: Sequence[SparseLayer],
    schedule: Schedule,
    decay: MaskedDecay | None,
    check_finite_every: int | None,
    certify: bool,
    masks: Mapping[str, Any] | None,
) -> None:
    """Return if all ranks were given the same: by these they know when to meet.

    Layers are compared when they do, and now if that is late.

    Raises:
        RanksDifferError: names the argument and what each rank was given.
    """
    own: dict[str, Any] = {
        "schedule": schedule.settings(),
        "decay": decay,
        "check_finite_every": check_finite_every,
        "certify": certify,
        "names in masks": sorted(map(str, masks or ())),
    }
    if not schedule.renews_at(0):
        own["layers and patterns"] = [(layer.name, tuple(layer.weight.shape), str(layer.pattern)) for layer in layers]
    given = ranks.gather({name: str(value) for name, value in own.items()})
    for name in own:
        texts = [part[name] for part in given]
        shown = "; ".join(f"rank {rank}: {text:.200}" for rank, text in enumerate(texts))
        check_same(texts, f"{name} of sparsify differ", f"give all ranks the same ({shown})")


def _listed(optimizer: Optimizer | Sequence[Optimizer] | None) -> Sequence[Optimizer]:
    if optimizer is None:
        return ()
    return optimizer if isinstance(optimizer, list | tuple) else (optimizer,)


def _start(sparsifier: Sparsifier, masks: Mapping[str, Any] | None, optimizers: Sequence[Optimizer]) -> None:
    """Put masks on the model and follow its optimizers, or leave the model as it was."""
    try:
        sparsifier.start(masks)
        if optimizers:
            sparsifier.watch(*optimizers)
    # An interrupt too: the first masks of a large model take long enough to meet one.
    except BaseException:
        sparsifier.remove()
        raise


def _checked_solver(solver: Solver | str, layers: Sequence[SparseLayer]) -> Solver | str:
    """The solver itself where one is named, which takes the blocks of every layer."""
    # Now, since under a schedule that begins late it is first called in the middle of training.
    if isinstance(solver, str) and solver != "auto":
        solver = get_solver(solver)
    if isinstance(solver, Solver):
        for m in {layer.pattern.m for layer in layers}:
            solver.check_side(m)
    return solver


def _by_full_name(masks: Mapping[str, Any], layers: Sequence[SparseLayer]) -> dict[str, Any]:
    """Masks by the names of layers, whichever of their names was given; of a mask file's records the masks.

    Raises:
        InvalidProblemError: two masks for one layer.
    """
    names = {owner.name: layer.name for layer in layers for owner in layer.owners}
    found: dict[str, Any] = {}
    for given, mask in masks.items():
        full = full_name(given, names)
        name = names.get(full, full)
        if name in found:
            raise InvalidProblemError(f"layer {name!r} is given two masks; give one")
        found[name] = mask.mask if isinstance(mask, MaskRecord) else mask
    return found


def _check_masks(
    masks: Mapping[str, Any], layers: Sequence[SparseLayer], skipped: Sequence[LayerReport], schedule: Schedule
) -> None:
    """Masks from the user must have a place, and a time."""
    names = {layer.name for layer in layers}
    reasons = {row.layer: row.reason for row in skipped}
    for name in masks:
        if name in reasons:
            raise InvalidProblemError(f"masks for {name}: no mask is put on it ({reasons[name]})")
    if unknown := [name for name in masks if name not in names]:
        raise InvalidProblemError(
            f"masks for {', '.join(unknown)}: no such layer gets one; there are {', '.join(names)}"
        )
    # They are put on at step 0, under the layers' own patterns: no later renewal reads them.
    late = [layer.name for layer in layers if schedule.pattern_at(0, layer.pattern) != layer.pattern]
    if late or not schedule.renews_at(0):
        raise InvalidProblemError(f"masks would be ignored: {schedule} is not at the layers' patterns at step 0")

"""Puts the masks of a setting on a model: transposable ones by `sparsify`, plain N:M by the same machinery."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import tmask
from bench.training.levers import LAZY
from bench.training.models import DENSE_LAYERS, FEED_FORWARD_LAYERS
from bench.training.settings import Setting
from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.judging.worth import Worth
from tmask.nn import Frozen, MaskedDecay, Renewal, Schedule, Sparsifier, add_low_rank, estimate_gradients, sparsify
from tmask.nn.layers.eligibility import select_layers
from tmask.nn.layers.finding import FoundMask, MaskFinder, Wanted
from tmask.nn.layers.rules import LayerRules
from tmask.nn.mask.cutting import Cutting
from tmask_solvers.greedy_keep import GreedyKeep
from tmask_solvers.midpoint import Midpoint

OPTIMUM = Midpoint()
SOLVERS = {"exact": OPTIMUM, "greedy": GreedyKeep(repair=True)}


def put_masks(
    model: nn.Module,
    setting: Setting,
    optimizer: Optimizer,
    decay: MaskedDecay | None,
    every: int,
    steps: int,
    on_renewal: Callable[[Renewal], object],
) -> Sparsifier:
    """Masks by the setting, on every eligible layer but the classifier.

    The multiplication is dense with the masked weight in every setting, so that only the masks differ. No proof is
    asked of the solvers here: it would count in the greedy's time, and is free in the exact one's.

    Args:
        decay: of masked-out weights, while masks are renewed.
        every: steps between renewals; steps: of the whole training, behind which none is of use.
    """
    levers = setting.combination
    frozen = setting.pretrained and not setting.levers
    schedule: Schedule = Frozen() if frozen else levers.schedule(steps, every)
    if setting.masks == "plain":
        return put_plain(model, setting.pattern, schedule, optimizer, decay, on_renewal)
    sparsifier = sparsify(
        model,
        setting.pattern,
        solver=SOLVERS[setting.masks],
        schedule=schedule,
        optimizer=optimizer,
        include=FEED_FORWARD_LAYERS if levers.feed_forward else ("*",),
        exclude=DENSE_LAYERS,
        # Dense products: kernels for 2:4 exist for some patterns and devices alone.
        backend="masked",
        decay=None if frozen else decay,
        certify=False,
        hysteresis=levers.hysteresis,
        smoothing=levers.smoothing,
        on_renewal=on_renewal,
    )
    if levers.estimates:
        estimate_gradients(sparsifier, "2:4")
    if levers.rank:
        adapters = add_low_rank(sparsifier, levers.rank, begin=round(LAZY * steps))
        optimizer.add_param_group({"params": list(adapters.parameters())})
    return sparsifier


def put_plain(
    model: nn.Module,
    pattern: str,
    schedule: Schedule,
    optimizer: Optimizer,
    decay: MaskedDecay | None,
    on_renewal: Callable[[Renewal], object],
) -> Sparsifier:
    """As `sparsify`, with masks that keep n of m along the input axis and ask nothing of the other."""
    layers, skipped = select_layers(model, LayerRules.parse(pattern, ("*",), DENSE_LAYERS, None))
    sparsifier = Sparsifier(layers, skipped, PlainFinder(), schedule, decay, on_renewal)
    sparsifier.start()
    sparsifier.watch(optimizer)
    return sparsifier


class PlainFinder(MaskFinder):
    """Finds the best mask of plain N:M, whose groups of m can be chosen apart."""

    def find_all(self, wanted: Sequence[Wanted], step: int) -> dict[str, FoundMask]:
        """One by one on every device: what solves all layers together there finds transposable masks."""
        return {one.name: self.find(*one[:4], step, one.kept) for one in wanted}

    @torch.no_grad()
    def find(
        self,
        name: str,
        weight: Tensor,
        pattern: Pattern | None,
        cutting: Cutting,
        step: int,
        kept: Tensor | None = None,
    ) -> FoundMask:
        """As for transposable masks; the schedules here have no dense part."""
        begin = time.perf_counter()
        assert pattern is not None
        score = weight.abs()
        mask = plain_mask(score, pattern)
        worth = Worth(float(score[mask].double().sum()), float(score.double().sum()), None)
        return FoundMask(mask, worth, time.perf_counter() - begin)


def plain_mask(score: Tensor, pattern: Pattern) -> Tensor:
    """The n largest of every m along the input axis, at each kernel position.

    Args:
        score: (out, in, ...), >= 0.
    Returns:
        bool, of the same shape, True = kept.
    Raises:
        InvalidProblemError: m does not divide the input axis.
    """
    if score.shape[1] % pattern.m:
        raise InvalidProblemError(f"{pattern} does not divide an input axis of {score.shape[1]}")
    inputs_last = score.movedim(1, -1)  # (out, ..., in)
    groups = inputs_last.reshape(*inputs_last.shape[:-1], -1, pattern.m)  # (out, ..., in / m, m)
    best = groups.topk(pattern.n).indices
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, best, True)
    return mask.flatten(-2).movedim(-1, 1).contiguous()


def plain_worth(sparsifier: Sparsifier, renewal: Renewal) -> Worth | None:
    """What the masks of a renewal keep of |weight|, and what the best ones would, at the renewal itself; None if dense.

    Judged by the optimum's own proof on the same weights, whatever bonus the masks were found with.
    """
    parts = []
    for layer, renewed in zip(sparsifier.layers, renewal.layers, strict=True):
        if renewed.pattern is None:
            return None
        weight = layer.weight.detach()
        best = tmask.solve(weight, renewed.pattern, OPTIMUM, groups=layer.groups, layout="convolution")
        kept = float(weight.abs()[layer.masked.mask].double().sum())
        parts.append(Worth(kept, best.total, best.dual_bound))
    return Worth.sum(parts)

"""Flip rates as a guide: how often masks change while a model trains, and the decay of masked weights that suits.

With too little decay masks flip for ever, with too much they freeze early. [Hu2024] compares the flip rate of a short
trial with that of dense training, whose masks are found and not applied, and takes a decay whose ratio lies in
[0.60, 0.95].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from tmask.errors import InvalidProblemError
from tmask.nn.layers.eligibility import select_layers
from tmask.nn.layers.finding import MaskFinder
from tmask.nn.layers.rules import Filter, LayerRules, PatternRules
from tmask.solving.solver import Solver

BAND = (0.60, 0.95)


class FlipRate:
    """Follows a model that trains dense: the masks that its weights would have, found at each call and not applied.

    Args:
        model, pattern, solver, include, exclude, filter_fn: as in `tmask.nn.sparsify`.
    """

    def __init__(
        self,
        model: nn.Module,
        pattern: PatternRules = "2:4",
        *,
        solver: Solver | str = "auto",
        include: Sequence[str] = ("*",),
        exclude: Sequence[str] = (),
        filter_fn: Filter | None = None,
    ) -> None:
        self._layers, _ = select_layers(model, LayerRules.parse(pattern, include, exclude, filter_fn))
        self._finder = MaskFinder(solver, certify=False)
        self._masks: dict[str, Tensor] = {}
        self._calls = 0

    def __call__(self) -> float | None:
        """Share of mask bits that changed since the call before; None at the first.

        Raises:
            TmaskError: as `tmask.solve`.
        """
        flips = size = 0
        for layer in self._layers:
            mask = self._finder.find(layer.name, layer.weight.detach(), layer.pattern, layer.cutting, self._calls).mask
            if layer.name in self._masks:
                flips += int((mask != self._masks[layer.name]).sum())
                size += mask.numel()
            self._masks[layer.name] = mask
        self._calls += 1
        return flips / size if size else None


@dataclass(frozen=True, slots=True)
class DecayChoice:
    """What `find_decay` found.

    Args:
        rate: for `MaskedDecay`.
        dense: flip rate of dense training.
        ratios: of each candidate's flip rate to it, in the order of the rates.
        inside: whether the chosen ratio lies in the band.
    """

    rate: float
    dense: float
    ratios: dict[float, float]
    inside: bool


def find_decay(
    trial: Callable[[float], float], candidates: Sequence[float], band: tuple[float, float] = BAND
) -> DecayChoice:
    """The smallest decay whose flip rate, against dense training's, lies in a band; else the one nearest to the band.

    Args:
        trial: called with a rate, trains a fresh model for a short time under a decay of that rate and returns its mean
            flip rate at renewals; called with 0, trains it dense and returns the mean of `FlipRate`. Renewals and
            calls must be as many steps apart.
        candidates: rates above 0, such as 1e-6, 1e-5, ... 1e-2.
        band: of the ratio.
    Raises:
        InvalidProblemError: no candidates, one that is not above 0, no band, or dense training flips no bit.
    Source: [Hu2024].
    """
    rates = sorted(set(candidates))
    if not rates or not all(0 < rate < math.inf for rate in rates):
        raise InvalidProblemError(f"candidates must be rates above 0, got {list(candidates)}")
    low, high = band
    if not 0 <= low < high:
        raise InvalidProblemError(f"band must be two ratios, the lower first, got {band}")
    dense = trial(0.0)
    if not 0 < dense <= 1:
        raise InvalidProblemError(f"dense training has a flip rate of {dense}: train for longer between its looks")
    ratios = {rate: trial(rate) / dense for rate in rates}
    inside = [rate for rate in rates if low <= ratios[rate] <= high]
    # More decay than needed holds back weights that should return.
    best = inside[0] if inside else min(rates, key=lambda rate: max(low - ratios[rate], ratios[rate] - high))
    return DecayChoice(best, dense, ratios, bool(inside))

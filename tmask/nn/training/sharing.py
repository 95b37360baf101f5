"""Masks for a model that several processes train together: DDP, and FSDP2 (`fully_shard`).

Every mask is found on one rank, from the whole weight, and sent to the others, so that all have the same whatever the
solver does; what ranks hold is compared at every renewal, by fingerprint. docs/how-to/distributed.md says more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tmask.blocks.pattern import Pattern
from tmask.nn.distributed.fingerprint import fingerprint
from tmask.nn.distributed.ranks import Ranks, check_same, together
from tmask.nn.layers.finding import FoundMask
from tmask.nn.layers.layer import SparseLayer
from tmask.nn.mask.sharding import shard_like, whole
from tmask.nn.mask.shards import is_sharded

Find = Callable[[Sequence[tuple[SparseLayer, Tensor, Tensor | None]]], dict[str, FoundMask]]


@dataclass(frozen=True, slots=True)
class Shared:
    """Finding masks on several ranks.

    Args:
        layers: of the model, the same on every rank.
        find: called with layers, their whole weights, and the whole masks that are to be favoured.
        favoured: by layer, the mask in force, perhaps in shards; None where none is favoured.
        given: names of the layers whose masks come from the user, on every rank.
        ranks: that train the model.
    """

    layers: Sequence[SparseLayer]
    find: Find
    favoured: Mapping[str, Tensor | None]
    given: frozenset[str]
    ranks: Ranks

    @torch.no_grad()
    def masks(self, patterns: Mapping[str, Pattern | None], step: int) -> dict[str, FoundMask]:
        """The masks of all layers, in shards where the weights are. All ranks must call it.

        Raises:
            RanksDifferError: ranks hold other layers, weights or masks; names the first layer, and the ranks.
            TmaskError: as `find` on any rank, raised on all.
        """
        self._compare(patterns, step)  # ends with an exchange, which the weights that are put together follow
        owners = self._owners()
        own = self._find_own(self._own_weights(owners))
        figures: dict[str, Any] = {}
        for part in self.ranks.gather(
            {name: (found.worth, found.seconds, found.complete) for name, found in own.items()}
        ):
            figures |= part
        with together(self.ranks):
            whole_masks = {layer.name: self._room(layer, own) for layer in self.layers}
        self._send(whole_masks, owners)
        masks, prints = {}, {}
        for layer in self.layers:
            mask = whole_masks.pop(layer.name)
            prints[layer.name] = fingerprint(mask)
            if is_sharded(layer.weight):
                mask = shard_like(mask, layer.weight)
            worth, seconds, complete = figures[layer.name]
            masks[layer.name] = FoundMask(mask, worth, seconds, complete, prints[layer.name])
        self._compare_each(self.ranks.gather(prints), "the new mask differs", "do all ranks give the same masks?")
        return masks

    def _compare(self, patterns: Mapping[str, Pattern | None], step: int) -> None:
        """Whether all ranks train the same model, and are at the same point."""
        plan = (
            step,
            [(la.name, tuple(la.weight.shape), str(la.cutting), str(patterns[la.name])) for la in self.layers],
        )
        alone = "if they train models of their own, pass distributed=False; if some do, their process group"
        # First, since ranks with other layers would wait for one another in what follows.
        plans = self.ranks.gather((plan, self.given))
        check_same(plans, "step, layers or patterns at a renewal differ", alone)
        plain = [layer for layer in self.layers if not is_sharded(layer.weight)]
        held = self.ranks.gather({la.name: (fingerprint(la.weight), fingerprint(la.masked.mask)) for la in plain})
        weights, masks = ([{name: pair[i] for name, pair in part.items()} for part in held] for i in range(2))
        # Masks before weights: under masks that differ the weights soon do, and the cause is what helps.
        self._compare_each(masks, "the mask in force differs", "one of them was changed or loaded on some ranks only")
        self._compare_each(
            weights, "the weight differs", f"seed all ranks alike, or wrap the model in DDP before sparsify; {alone}"
        )

    def _compare_each(self, prints: Sequence[Mapping[str, Any]], what: str, advice: str) -> None:
        for layer in self.layers:
            check_same([part.get(layer.name) for part in prints], f"layer {layer.name!r}: {what}", advice)

    def _owners(self) -> dict[str, int]:
        """The rank that finds each mask: the largest first, each to the rank that has the least so far."""
        loads = [0] * self.ranks.size
        owners = {}
        for layer in sorted(self.layers, key=lambda layer: -layer.weight.numel()):
            # Each rank works this out for itself, so ties must fall alike: a stable sort, and the first of equal loads.
            owners[layer.name] = rank = loads.index(min(loads))
            loads[rank] += layer.weight.numel()
        return owners

    def _own_weights(self, owners: Mapping[str, int]) -> dict[str, tuple[Tensor, Tensor | None]]:
        """The whole weights that this rank finds masks for: those that it owns, and those whose masks are given.

        Each with the whole mask that is to be favoured.
        """
        weights = {}
        for layer in self.layers:
            kept = self.favoured[layer.name]
            # Every rank takes part, the others drop them at once.
            pair = whole(layer.weight.detach()), None if kept is None else whole(kept)
            if owners[layer.name] == self.ranks.index or layer.name in self.given:
                weights[layer.name] = pair
        return weights

    def _find_own(self, weights: Mapping[str, tuple[Tensor, Tensor | None]]) -> dict[str, FoundMask]:
        """This rank's share of the masks, once no rank has failed."""
        found: dict[str, FoundMask] = {}
        with together(self.ranks):
            found.update(self.find([(la, *weights[la.name]) for la in self.layers if la.name in weights]))
        return found

    def _room(self, layer: SparseLayer, own: Mapping[str, FoundMask]) -> Tensor:
        """The whole mask: this rank's, or the memory for what its owner sends."""
        if layer.name in own:
            return own[layer.name].mask.contiguous()
        return torch.empty(layer.weight.shape, dtype=torch.bool, device=layer.weight.device)

    def _send(self, masks: Mapping[str, Tensor], owners: Mapping[str, int]) -> None:
        """Each mask from its owner to all; but every rank has judged a given one for itself, and has it."""
        for name, mask in masks.items():
            if name not in self.given:
                self.ranks.send(mask, owners[name])

"""The masks of a whole model at one renewal: found, in this process or on all ranks together, and put on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn.distributed.ranks import Ranks, together
from tmask.nn.layers.finding import FoundMask, MaskFinder, Wanted
from tmask.nn.layers.layer import SparseLayer
from tmask.nn.layers.renewals import LayerRenewal
from tmask.nn.layers.settling import prepare
from tmask.nn.mask.shards import counted, is_sharded


def find_masks(
    layers: Sequence[SparseLayer],
    finder: MaskFinder,
    patterns: Mapping[str, Pattern | None],
    given: Mapping[str, Any],
    step: int,
    distributed: Any,
) -> dict[str, FoundMask]:
    """A mask for every layer, by name.

    Args:
        patterns: in force from now on, by layer; None for dense.
        given: masks from the user, which are checked; the others are found.
        distributed: as in `tmask.nn.sparsify`.
    Raises:
        InvalidProblemError: sharded weights, and `distributed` False.
        TmaskError: as `MaskFinder`, and as `sharing` on several ranks.
    """

    def find(weights: Sequence[tuple[SparseLayer, Tensor, Tensor | None]]) -> dict[str, FoundMask]:
        found, wanted = {}, []
        for layer, weight, kept in weights:
            name, pattern = layer.name, patterns[layer.name]
            if pattern is not None and name in given:
                found[name] = finder.judge(name, weight, given[name], pattern, layer.cutting)
            else:
                wanted.append(Wanted(name, weight, pattern, layer.cutting, kept))
        return found | finder.find_all(wanted, step)

    # At each renewal: torch.distributed may have been started since the last one.
    ranks = Ranks.of(distributed)
    sharded = [layer.name for layer in layers if is_sharded(layer.weight)]
    if sharded and ranks is None:
        raise InvalidProblemError(
            f"layer {sharded[0]!r} is sharded over ranks, which have to find its mask together; leave out "
            "distributed=False"
        )
    # One rank alone holds shards all the same where `fully_shard` was called, and they must be put together.
    if ranks is None or (ranks.size == 1 and not sharded):
        return find([(layer, layer.weight.detach(), _in_force(layer, finder)) for layer in layers])
    from tmask.nn.training.sharing import Shared  # late: it loads torch's tensors over ranks

    favoured = {layer.name: _in_force(layer, finder) for layer in layers}
    return Shared(layers, find, favoured, frozenset(given), ranks).masks(patterns, step)


def _in_force(layer: SparseLayer, finder: MaskFinder) -> Tensor | None:
    """The mask that hysteresis favours; a dense one favours nothing."""
    return layer.masked.mask if finder.hysteresis and layer.in_force is not None else None


def put_on(
    layers: Sequence[SparseLayer],
    found: Mapping[str, FoundMask],
    patterns: Mapping[str, Pattern | None],
    step: int,
    ranks: Ranks | None = None,
) -> tuple[LayerRenewal, ...]:
    """Replace the masks of all layers, and say what changed.

    Raises:
        InvalidMaskError: a backend that was asked for by name cannot take one of them; no layer is changed then.
    """
    # All are asked before any is changed, or one that is refused would leave the model half renewed.
    with together(ranks):
        for layer in layers:
            prepare(layer, patterns[layer.name], found[layer.name].mask, found[layer.name].complete)
    flips = counted([layer.set_mask(found[layer.name], patterns[layer.name], step) for layer in layers])
    return tuple(
        LayerRenewal(layer.name, patterns[layer.name], new.worth, changed, new.mask.numel(), new.seconds)
        for layer, changed in zip(layers, flips, strict=True)
        for new in [found[layer.name]]
    )

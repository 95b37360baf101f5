"""Which backend a layer runs on: chosen for all its owners, and given up under "auto" where a mask does not fit it."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidMaskError, TmaskError
from tmask.nn.layers.layer import SparseLayer
from tmask.nn.mask.shards import is_sharded
from tmask.nn.mask.terms import Terms
from tmask.nn.packing import backends
from tmask.nn.packing.packable import completed

log = logging.getLogger("tmask")


def choose(layer: SparseLayer) -> None:
    """Take the backend that every owner of the weight can run, on the device that it is on now.

    Raises:
        InvalidProblemError: the one that was asked for cannot run it; names the layer.
    """
    for owner in layer.owners:
        try:
            layer.backend, layer.reason = backends.choose_backend(
                owner.module,
                owner.tensor,
                layer.weight,
                layer.pattern,
                layer.requested,
                layer.tokens or backends.TOKENS,
                layer.graphs,
            )
        except TmaskError as error:
            raise type(error)(f"layer {owner.name!r}: {error}") from error
        if layer.backend == backends.MASKED:
            break  # one owner that cannot be packed keeps the weight's other owners masked, for its reason
    _observe(layer)


def _observe(layer: SparseLayer) -> None:
    """Let "auto" see the first batch, where nobody has said how many tokens it has and packing is possible at all."""
    layer.end_observation()
    if layer.requested != backends.AUTO or layer.tokens is not None:
        return
    if not any(backends.unfit(one.module, one.tensor, layer.weight, layer.pattern) for one in layer.owners):
        layer.observe(_choose_for_batch)


def _choose_for_batch(layer: SparseLayer, tokens: int) -> None:
    """Choose "auto" once more, for a batch that was seen."""
    layer.tokens = tokens
    before = layer.backend
    # Between steps, where gradients may be off, which the measured products have.
    with torch.enable_grad(), torch.autocast(layer.weight.device.type, enabled=False):
        choose_anew(layer)
    text = "stays on" if layer.backend == before else f"goes from {before!r} to"
    log.info("layer %r %s backend %r, for the %d tokens of its first batch", layer.name, text, layer.backend, tokens)


def prepare(layer: SparseLayer, pattern: Pattern | None, mask: Tensor, complete: bool) -> None:
    """See whether the backend takes a mask before it is put on; under "auto" go on masked where it does not.

    Args:
        pattern: of the mask.
        mask: to put on.
        complete: whether it is known to keep exactly n in every row and column of full blocks.
    Raises:
        InvalidMaskError: it does not, and was asked for by name.
    """
    if layer.backend != backends.SEMI_STRUCTURED or pattern != layer.pattern:
        return
    problem = "" if complete else _lack_of(mask, layer.masked.keep_zeros)
    problem = problem or next(filter(None, (backends.misuse(o.module, o.tensor) for o in layer.owners)), "")
    if problem and layer.requested != backends.AUTO:
        raise InvalidMaskError(
            f'layer {layer.name!r}: {problem}; use backend "auto" or "masked", or a solver that fills its masks'
        )
    if problem:
        layer.backend, layer.reason = backends.MASKED, problem
        layer.release()


def _lack_of(mask: Tensor, keep_zeros: bool) -> str:
    """Why a mask that may be short cannot be packed, or "": kept out zeros can fill it up."""
    problem = "its mask leaves rows or columns short, and kernels need exactly 2 of every 4"
    if not keep_zeros:
        return problem
    try:
        completed(mask)
    except InvalidMaskError:
        return problem
    return ""


def choose_anew(layer: SparseLayer) -> None:
    """Choose "auto" again, for a mask that is on, now that the model may be on another device.

    Raises:
        InvalidProblemError: the mask was taken off.
    """
    masked = layer.masked
    if layer.requested != backends.AUTO or is_sharded(layer.weight):
        layer.end_observation()
        return
    choose(layer)
    prepare(layer, layer.in_force, masked.mask, Terms.of(masked.terms.tolist(), layer.name).complete)
    if layer.backend == backends.MASKED:
        layer.release()
    layer.refresh()

"""A Sparsifier's state in plain types, which `torch.load(weights_only=True)` and JSON take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.judging.worth import Worth
from tmask.nn.distributed.fingerprint import fingerprint
from tmask.nn.distributed.ranks import Ranks, check_same, together
from tmask.nn.layers.layer import SparseLayer
from tmask.nn.layers.settling import prepare
from tmask.nn.mask.shards import put_together
from tmask.nn.mask.terms import Terms
from tmask.nn.training.schedules import Schedule


def capture(
    steps: int, schedule: Schedule, layers: Sequence[SparseLayer], order: list[int | None] | None
) -> dict[str, Any]:
    """What a resumed run needs besides masks and weights, which are in the model's state.

    Args:
        order: places of the weights among the optimizer's parameters, see `Watch.order`; None if none is watched.
    """
    return {
        "steps": steps,
        "schedule": schedule.settings(),
        "order": order,
        "layers": {
            layer.name: {
                "pattern": str(layer.pattern),
                "in_force": None if layer.in_force is None else str(layer.in_force),
                "step": layer.step,
                "mask": layer.fingerprint(),
                "score": None if layer.worth is None else [*astuple(layer.worth)],
            }
            for layer in layers
        },
    }


def restore(
    state: Mapping[str, Any],
    schedule: Schedule,
    layers: Sequence[SparseLayer],
    order: list[int | None] | None,
    ranks: Ranks | None,
) -> int:
    """Bring the layers to the state, and return the steps; nothing is changed where it does not fit.

    Args:
        order: as of `capture`; None also for an optimizer that has no state yet, which any order suits.
        ranks: that train the model, all of which must call it; None for this process alone.
    Raises:
        InvalidProblemError: no such state, or one of other layers, patterns or another schedule; the model's state or
            the optimizer's is not the one that belongs to it.
        InvalidMaskError: a mask is not one that was found.
        RanksDifferError: ranks hold other masks.
    """
    with together(ranks):
        if not isinstance(state, Mapping):
            raise InvalidProblemError(f"the state of a Sparsifier is a dict; got {state!r:.80}")
        _check_settings(state, schedule, layers)
        _check_order(state, order)
        for layer in layers:
            layer.check_held()
    saved = state["layers"]
    # Outside of `together`, whose block must not communicate: masks in shards are put together by all ranks.
    judged = [(layer, *_judge(layer)) for layer in layers]
    with together(ranks):
        for layer, terms, found in judged:
            if isinstance(terms, Exception):
                raise terms
            own = saved[layer.name]
            # The saved fingerprint is None where something else than a renewal had changed a mask in shards.
            if str(terms.in_force) != str(own["in_force"]) or own.get("mask") not in (None, found):
                raise InvalidProblemError(
                    f"layer {layer.name!r}: its mask is not the one that this state of step {state['steps']} belongs "
                    "to; load the model's state of the same step first"
                )
            prepare(layer, terms.in_force, layer.masked.mask, terms.complete)
    if ranks is not None:
        _compare(ranks, state["steps"], {layer.name: found for layer, _, found in judged})
    # A state that does not fit has been refused by now, on every rank, so that no rank goes on with half of it.
    with together(ranks):
        for layer, _, found in judged:
            own = saved[layer.name]
            layer.in_force = None if own["in_force"] is None else Pattern.parse(own["in_force"])
            layer.worth = None if own["score"] is None else Worth(*own["score"])
            layer.step = own["step"]
            layer.note(found)
            layer.refresh()
    return int(state["steps"])


def _check_settings(state: Mapping[str, Any], schedule: Schedule, layers: Sequence[SparseLayer]) -> None:
    if missing := {"steps", "schedule", "layers"} - state.keys():
        raise InvalidProblemError(f"this is no state of a Sparsifier: it lacks {', '.join(sorted(missing))}")
    saved = state["layers"]
    if differing := sorted(saved.keys() ^ {layer.name for layer in layers}):
        raise InvalidProblemError(f"the checkpoint has masks on other layers; these differ: {', '.join(differing)}")
    for layer in layers:
        if (pattern := saved[layer.name]["pattern"]) != str(layer.pattern):
            raise InvalidProblemError(
                f"layer {layer.name!r}: the checkpoint was trained with pattern {pattern}, not {layer.pattern}"
            )
    if state["schedule"] != schedule.settings():
        raise InvalidProblemError(
            f"the checkpoint was trained with schedule {state['schedule']}, not {schedule.settings()}"
        )


def _check_order(state: Mapping[str, Any], order: list[int | None] | None) -> None:
    """torch saves an optimizer's state by the places of parameters, and loads it into wrong ones without a word."""
    # None: no optimizer was watched in the run that was saved.
    if order is not None and state.get("order") not in (None, order):
        raise InvalidProblemError(
            "the optimizer's parameters are in another order than when its state was saved, by which that state "
            "goes: sparsify moves weights that it masks within model.parameters(); make the optimizer on the same "
            "side of sparsify, before or after, as in the saved run"
        )


def _compare(ranks: Ranks, steps: int, prints: Mapping[str, int]) -> None:
    """Return if all ranks have loaded the same: steps, and fingerprints of masks by layer."""
    loaded = ranks.gather([steps, *prints.values()])
    advice = "load the same states on every rank"
    check_same([part[0] for part in loaded], "the Sparsifier's steps differ", advice)
    for place, name in enumerate(prints, 1):
        check_same([part[place] for part in loaded], f"layer {name!r}: the loaded mask differs", advice)


def _judge(layer: SparseLayer) -> tuple[Terms | Exception, int]:
    """The terms of the mask that was loaded, or what is wrong with it; and its fingerprint. All ranks must call it.

    An error is handed back, since a rank that stopped here would leave the others waiting for its part of a mask.
    """
    mask = put_together(layer.masked.mask)
    try:
        terms = Terms.of(layer.masked.terms.tolist(), layer.name)
        terms.check(mask, layer.name)
        return terms, fingerprint(mask)
    except Exception as error:
        return error, 0

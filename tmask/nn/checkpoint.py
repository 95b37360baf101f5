"""A Sparsifier's state in plain types, which `torch.load(weights_only=True)` and JSON take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tmask.errors import InvalidProblemError
from tmask.nn.layer import SparseLayer
from tmask.nn.report import Score
from tmask.nn.schedules import Schedule
from tmask.pattern import Pattern


def capture(steps: int, schedule: Schedule, layers: Sequence[SparseLayer]) -> dict[str, Any]:
    """What a resumed run needs besides masks and weights, which are in the model's state."""
    return {
        "steps": steps,
        "schedule": schedule.settings(),
        "layers": {
            layer.name: {
                "pattern": str(layer.pattern),
                "in_force": None if layer.in_force is None else str(layer.in_force),
                "step": layer.step,
                "score": None if layer.score is None else layer.score.sums(),
            }
            for layer in layers
        },
    }


def restore(state: Mapping[str, Any], schedule: Schedule, layers: Sequence[SparseLayer]) -> int:
    """Bring the layers to the state, and return the steps; nothing is changed where it does not fit.

    Raises:
        InvalidProblemError: no such state, or one of other layers, patterns or another schedule.
    """
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
    for layer in layers:
        own = saved[layer.name]
        layer.in_force = None if own["in_force"] is None else Pattern.parse(own["in_force"])
        layer.score = None if own["score"] is None else Score(*own["score"])
        layer.step = own["step"]
        layer.refresh()
    return int(state["steps"])

"""Whether the arguments of `sparsify` are what they are meant to be, before anything is done with them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn

from tmask.errors import InvalidProblemError
from tmask.nn.training.decay import MaskedDecay
from tmask.nn.training.schedules import Schedule
from tmask.solving.solver import Solver

# A wrong schedule or callable would else fail at its first use, perhaps thousands of steps on.
_WANTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "model": (lambda value: isinstance(value, nn.Module), "a torch.nn.Module"),
    "solver": (lambda value: isinstance(value, str | Solver), 'the name of a solver, "auto" or a Solver'),
    "schedule": (lambda value: isinstance(value, Schedule), "Frozen(...) or Periodic(...)"),
    "include": (lambda value: _is_texts(value), "a list of globs"),
    "exclude": (lambda value: _is_texts(value), "a list of globs"),
    "filter_fn": (lambda value: value is None or callable(value), "a function of module and name, or None"),
    "score": (lambda value: value is None or callable(value), "a function of name and weight, or None"),
    "masks": (
        lambda value: value is None or isinstance(value, Mapping),
        "a mapping from layer names to masks, or None",
    ),
    "decay": (lambda value: value is None or isinstance(value, MaskedDecay), "MaskedDecay(rate), or None"),
    "keep_zeros": (lambda value: isinstance(value, bool), "True or False"),
    "hysteresis": (lambda value: _is_share(value), "a share from 0 to 1"),
    "smoothing": (lambda value: _is_share(value), "a share from 0 to 1"),
    "on_renewal": (lambda value: value is None or callable(value), "a function of a Renewal, or None"),
    # To Python, True is an int; as a number of steps it is a mistake.
    "check_finite_every": (
        lambda value: value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0),
        "a number of steps, 0 or None",
    ),
}


def check_arguments(**arguments: Any) -> None:
    """Return if each argument is of the kind that its name asks for, at a moment when a model can be sparsified.

    Raises:
        InvalidProblemError: names the argument, what it is and what it must be.
    """
    for name, value in arguments.items():
        fits, wanted = _WANTED[name]
        if not fits(value):
            raise InvalidProblemError(f"{name} must be {wanted}; got {value!r}")
    if torch.is_inference_mode_enabled():
        raise InvalidProblemError(
            "sparsify is called inside torch.inference_mode, whose tensors no training can change; call it outside"
        )


def _is_share(value: Any) -> bool:
    """Whether it is a number from 0 to 1; NaN is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_texts(value: Any) -> bool:
    """Whether it is a list of texts. A text, a sequence too, is left to `LayerRules`, which tells what was meant."""
    return isinstance(value, str) or (isinstance(value, Collection) and all(isinstance(item, str) for item in value))

"""Checks of settings that several backends share; what they refuse would otherwise fail inside a library."""

from __future__ import annotations

import numbers

from tmask.errors import InvalidProblemError


def check_count(name: str, value: object, least: int = 1) -> None:
    """Return if the value is an integer of at least `least`; raise InvalidProblemError if not."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise InvalidProblemError(f"{name} must be an integer of at least {least}, got {value!r}")


def check_time_limit(value: object) -> None:
    """Return if the value is None or above 0 seconds; raise InvalidProblemError if not."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if value is not None and not (number and value > 0):  # type: ignore[operator]
        raise InvalidProblemError(f"time_limit must be above 0 seconds or None, got {value!r}")

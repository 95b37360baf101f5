"""Settings that cannot be meant, refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import TypeGuard

from tmask.errors import InvalidProblemError


def positive(name: str, value: object) -> None:
    """Refuse what is no finite number above 0."""
    if not _is_number(value) or not value > 0:
        raise InvalidProblemError(f"{name} {value!r} must be a number above 0")


def not_negative(name: str, value: object) -> None:
    """Refuse what is no finite number from 0 on."""
    if not _is_number(value) or not value >= 0:
        raise InvalidProblemError(f"{name} {value!r} must be a number, at least 0")


def at_least(name: str, value: object, least: int) -> None:
    """Refuse what is no whole number from `least` on."""
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
        raise InvalidProblemError(f"{name} {value!r} must be a whole number, at least {least}")


def choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse what is none of the choices."""
    if value not in choices:
        raise InvalidProblemError(f"{name} {value!r}: choose one of {', '.join(choices)}")


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

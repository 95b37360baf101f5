"""Numbers in words, short enough for a table."""

from __future__ import annotations

import math


def percent(value: float | None, digits: int = 2) -> str:
    """A share as per cent; very small ones in full, exact zero as 0."""
    if value is None or math.isnan(value):
        return "-"
    if value == 0:
        return "0"
    # Rounded to 0.00% a small gap would look like a proof of none.
    return f"{100 * value:.{digits}f}%" if abs(value) >= 0.5 * 10 ** -(digits + 2) else f"{100 * value:.0e}%"


def number(value: float) -> str:
    """A positive number to three digits or more, without an exponent unless it is tiny."""
    if math.isnan(value):
        return "-"
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}" if value >= 1e-4 else f"{value:.0e}"


def amount(value: float) -> str:
    """A large number to three digits, with k, M or G."""
    for unit, sign in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return number(value / unit) + sign
    return number(value)

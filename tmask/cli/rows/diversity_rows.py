"""Mask diversity as rows: numbers in full for CSV and JSON, words for tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tmask.blocks.pattern import Pattern
from tmask.cli.output import Row
from tmask.diversity import CONSTRAINTS, Diversity, PatternDiversity, transposable_bounds
from tmask.files.layers import Layer

FORMULA = "product formula"

Layers = Mapping[str, Mapping[str, Diversity]]  # by layer and constraint
Totals = Mapping[str, dict[str, Any]]  # by constraint

_DIGITS = 16  # of a number that is written out in a table


def pattern_numbers(one: PatternDiversity) -> dict[str, Any]:
    """One pattern in full; whole numbers that floats cannot hold are texts."""
    low, high = transposable_bounds(one.pattern.n, one.pattern.m)
    return {
        "n": one.pattern.n,
        "m": one.pattern.m,
        "masks": None if one.masks is None else str(one.masks),
        "log2": one.log2,
        "log2_exact": one.masks is not None,
        "log2_at_least": low if one.masks is None else one.log2,
        "log2_at_most": high if one.masks is None else one.log2,
        "product_formula": str(one.formula),
        "log2_overcount": one.log2_overcount,
        **{f"{name}_bits_per_weight": one.bits[name] for name in CONSTRAINTS},
    }


def pattern_words(one: PatternDiversity) -> Row:
    """One pattern for a table."""
    exact = one.masks is not None
    return {
        "pattern": str(one.pattern),
        "masks of a tile": _amount(one.masks, one.log2),
        "log2": _log2(one.log2, exact, 2),
        **{name: _bits(one.bits[name], exact or name != "transposable") for name in CONSTRAINTS},
        FORMULA: _amount(one.formula, one.log2 + one.log2_overcount),
        "formula / masks": _power_of_two(one.log2_overcount),
    }


def layer_numbers(by_pattern: Mapping[Pattern, Layers], read: Mapping[str, Layer]) -> list[dict[str, Any]]:
    """A row for each pattern, layer and constraint."""
    return [
        {
            "layer": name,
            "shape": "x".join(map(str, one.shape)),
            "layout": read[name].layout,
            "groups": read[name].groups,
            "n": pattern.n,
            "m": pattern.m,
            "constraint": constraint,
            "weights": one.size,
            "log2": one.log2,
            "exact": one.exact,
            "bits_per_weight": one.bits_per_weight,
        }
        for pattern, layers in by_pattern.items()
        for name, constraints in layers.items()
        for constraint, one in constraints.items()
    ]


def totals_of(layers: Layers) -> Totals:
    """All layers together, by constraint: each layer's masks combine with every other's; not where one is missing."""
    totals = {}
    for constraint in CONSTRAINTS:
        if any(constraint not in constraints for constraints in layers.values()):
            continue
        ones = [constraints[constraint] for constraints in layers.values()]
        log2, weights = sum(one.log2 for one in ones), sum(one.size for one in ones)
        exact = all(one.exact for one in ones)
        totals[constraint] = {
            "weights": weights, "log2": log2, "exact": exact, "bits_per_weight": log2 / weights,
        }  # fmt: skip
    return totals


def layer_words(layers: Layers, totals: Totals, read_as: Mapping[str, str]) -> list[Row]:
    """A table of one pattern: a row for each layer and one for all."""
    rows = [_layer(name, read_as[name], constraints) for name, constraints in layers.items()]
    return [*rows, _all_layers(len(layers), totals)]


def _layer(name: str, read_as: str, constraints: Mapping[str, Diversity]) -> Row:
    transposable, plain = constraints.get("transposable"), constraints["plain"]
    bits = {constraint: _bits(one.bits_per_weight, one.exact) for constraint, one in constraints.items()}
    return {
        "layer": name,
        "shape": "x".join(map(str, plain.shape)),
        "read as": read_as,
        "weights": f"{plain.size:,}",
        "log2 transposable": _log2(transposable.log2, transposable.exact) if transposable else "",
        **{constraint: bits.get(constraint, "") for constraint in CONSTRAINTS},
    }


def _all_layers(count: int, totals: Totals) -> Row:
    transposable = totals.get("transposable")
    bits = {constraint: _bits(one["bits_per_weight"], one["exact"]) for constraint, one in totals.items()}
    return {
        "layer": f"all {count}",
        "shape": "",
        "read as": "",
        "weights": f"{totals['plain']['weights']:,}",
        "log2 transposable": _log2(transposable["log2"], transposable["exact"]) if transposable else "",
        **{constraint: bits.get(constraint, "") for constraint in CONSTRAINTS},
    }


def _amount(value: int | None, log2: float) -> str:
    """A whole number in full if it is short, else its leading digits; ~ before an estimate."""
    if value is not None and value < 10**_DIGITS:
        return f"{value:,}"
    # By logarithms: the product formula of 16:32 is beyond float64.
    exponent, mantissa = divmod(log2 * math.log10(2), 1)
    return f"{'~' if value is None else ''}{10**mantissa:.3f}e{exponent:.0f}"


def _log2(value: float, exact: bool, digits: int = 1) -> str:
    return f"{'' if exact else '~'}{value:,.{digits}f}"


def _bits(value: float, exact: bool) -> str:
    return _log2(value, exact, 4)


def _power_of_two(log2: float) -> str:
    """2^log2, as a number while that can be read."""
    return f"{2**log2:.4g}" if log2 < 40 else f"2^{log2:.1f}"

"""`tmask diversity`: how many masks each constraint allows, over patterns or over the layers of a weight file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from tmask.blocks.pattern import Pattern
from tmask.cli.console import note, progress_bar
from tmask.cli.exit_codes import reports_errors
from tmask.cli.options import Csv, Exclude, Groups, Include, Json, Overwrite, Regex, check_outputs, parse_groups
from tmask.cli.output import show_json, show_table
from tmask.diversity import (
    CONSTRAINTS,
    DEFAULT_PATTERNS,
    Diversity,
    PatternDiversity,
    model_diversity,
    pattern_diversity,
    transposable_bounds,
)
from tmask.errors import InvalidProblemError
from tmask.files.csv_files import write_csv
from tmask.files.layers import select_layers
from tmask.files.weights import open_weights
from tmask.plots.diversity import draw_diversity

_OF_A_FILE = ("2:4", "4:8", "8:16")
_DIGITS = 16  # of a number that is written out in a table
_FORMULA = "product formula"


@reports_errors
def diversity(
    file: Annotated[Path | None, typer.Argument(help="Weights; without, the patterns themselves are compared.")] = None,
    pattern: Annotated[list[str], typer.Option("--pattern", "-p", help="N:M (repeatable); else usual ones.")] = [],  # noqa: B006
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw this figure (.png, .svg or .pdf).")] = None,
    include: Include = [],  # noqa: B006
    exclude: Exclude = [],  # noqa: B006
    regex: Regex = False,
    groups: Groups = [],  # noqa: B006
    overwrite: Overwrite = False,
    json: Json = False,
    csv: Csv = None,
) -> None:
    """Count the masks that each constraint allows: log2 of their number, per weight.

    Unstructured and structured (whole m-by-m blocks) keep the share n/m; plain N:M and transposable N:M are counted
    exactly. Without a file, the paper's product formula stands beside the exact count.
    """
    parsed = list(dict.fromkeys(map(Pattern.parse, pattern or (_OF_A_FILE if file else DEFAULT_PATTERNS))))
    check_outputs([file] if file else [], [plot, csv], overwrite)
    if file is None:
        if include or exclude or regex or groups:
            raise InvalidProblemError("--include, --exclude, --regex and --groups choose layers: give a weight file")
        _of_patterns(parsed, plot, overwrite, json, csv)
    else:
        weights = open_weights(file)
        selection = select_layers(weights, include, exclude, regex=regex, groups=parse_groups(groups))
        shapes = {layer.name: layer.shape for layer in selection.layers}
        counts = {layer.name: layer.groups for layer in selection.layers}
        by_pattern: dict[Pattern, dict[str, dict[str, Diversity]]] = {}
        missing: list[str] = []
        with progress_bar(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as bar:
            for one in parsed:
                task = bar.add_task(str(one))
                by_pattern[one] = {}
                for name, shape in shapes.items():
                    by_pattern[one][name], problem = _of_layer(name, shape, counts[name], one)
                    missing += [f"{one}, {problem}"] if problem else []
                bar.remove_task(task)
        _of_layers(file, by_pattern, plot, overwrite, json, csv)
        if selection.skipped:
            note(f"{len(selection.skipped)} tensors get no mask and were left out; `tmask solve` lists them")
        for problem in missing:
            note(problem)


def _of_layer(name: str, shape: tuple[int, ...], groups: int, pattern: Pattern) -> tuple[dict[str, Diversity], str]:
    """One layer by constraint, without transposable masks where these cannot be counted; and why, or ""."""
    try:
        return model_diversity({name: shape}, pattern, groups={name: groups})[name], ""
    except InvalidProblemError as error:
        others = [constraint for constraint in CONSTRAINTS if constraint != "transposable"]
        return model_diversity({name: shape}, pattern, others, groups={name: groups})[name], str(error)


def _of_patterns(patterns: list[Pattern], plot: Path | None, overwrite: bool, json: bool, csv: Path | None) -> None:
    found: list[PatternDiversity] = []
    with progress_bar(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as bar:
        for pattern in patterns:
            task = bar.add_task(str(pattern))
            found += pattern_diversity([pattern])
            bar.remove_task(task)
    rows = [_row(one) for one in found]
    if plot is not None:
        bits = {
            one.pattern: dict(one.bits) | {_FORMULA: (one.log2 + one.log2_overcount) / one.pattern.m**2}
            for one in found
        }
        estimated = [(one.pattern, "transposable") for one in found if one.masks is None]
        draw_diversity(bits, plot, estimated=estimated, overwrite=overwrite)
    if csv is not None:
        write_csv(csv, rows, overwrite)
    if json:
        show_json({"patterns": rows})
        return
    table = [
        {
            "pattern": str(one.pattern),
            "masks of a tile": _amount(one.masks, one.log2),
            "log2": _log2(one.log2, one.masks is not None, 2),
            **{name: _bits(one.bits[name], one.masks is not None or name != "transposable") for name in CONSTRAINTS},
            _FORMULA: _amount(one.formula, one.log2 + one.log2_overcount),
            "formula / masks": _power_of_two(one.log2_overcount),
        }
        for one in found
    ]
    show_table("Masks that a constraint allows: transposable ones of an m-by-m tile, then bits per weight", table)
    for one in found:
        if one.masks is None:
            low, high = transposable_bounds(one.pattern.n, one.pattern.m)
            note(f"{one.pattern}: its log2 is an estimate; proven to be from {low:.2f} to {high:.2f}")


def _row(one: PatternDiversity) -> dict[str, Any]:
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


def _of_layers(
    file: Path,
    by_pattern: Mapping[Pattern, Mapping[str, Mapping[str, Diversity]]],
    plot: Path | None,
    overwrite: bool,
    json: bool,
    csv: Path | None,
) -> None:
    rows = [
        {
            "layer": name,
            "shape": "x".join(map(str, one.shape)),
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
    totals = {pattern: _total(layers) for pattern, layers in by_pattern.items()}
    if plot is not None:
        bits = {
            pattern: {name: total["bits_per_weight"] for name, total in of.items()} for pattern, of in totals.items()
        }
        estimated = [
            (pattern, name) for pattern, of in totals.items() for name, total in of.items() if not total["exact"]
        ]
        draw_diversity(bits, plot, title=f"Mask diversity of {file.name}", estimated=estimated, overwrite=overwrite)
    if csv is not None:
        write_csv(csv, rows, overwrite)
    if json:
        show_json({"layers": rows, "totals": {str(pattern): of for pattern, of in totals.items()}})
        return
    for pattern, layers in by_pattern.items():
        table = [_layer_row(name, constraints) for name, constraints in layers.items()]
        of = totals[pattern]
        table.append(
            {
                "layer": f"all {len(layers)}",
                "shape": "",
                "weights": f"{of['plain']['weights']:,}",
                "log2 transposable": _log2(total["log2"], total["exact"]) if (total := of.get("transposable")) else "",
                **{
                    name: _bits(of[name]["bits_per_weight"], of[name]["exact"]) if name in of else ""
                    for name in CONSTRAINTS
                },
            }
        )
        show_table(f"{pattern} on {file.name}: bits per weight", table, texts=("layer",))
        if any(not of_one["exact"] for of_one in of.values()):
            note(f"{pattern}: numbers with ~ are estimates, since the exact count is out of reach")


def _layer_row(name: str, constraints: Mapping[str, Diversity]) -> dict[str, str]:
    transposable, plain = constraints.get("transposable"), constraints["plain"]
    bits = {constraint: _bits(one.bits_per_weight, one.exact) for constraint, one in constraints.items()}
    return {
        "layer": name,
        "shape": "x".join(map(str, plain.shape)),
        "weights": f"{plain.size:,}",
        "log2 transposable": _log2(transposable.log2, transposable.exact) if transposable else "",
        **{constraint: bits.get(constraint, "") for constraint in CONSTRAINTS},
    }


def _total(layers: Mapping[str, Mapping[str, Diversity]]) -> dict[str, dict[str, Any]]:
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


def _amount(value: int | None, log2: float) -> str:
    """A whole number in full if it is short, else its leading digits; ~ before an estimate."""
    if value is not None and value < 10**_DIGITS:
        return f"{value:,}"
    exponent, mantissa = divmod(log2 * math.log10(2), 1)
    return f"{'~' if value is None else ''}{10**mantissa:.3f}e{exponent:.0f}"


def _log2(value: float, exact: bool, digits: int = 1) -> str:
    return f"{'' if exact else '~'}{value:,.{digits}f}"


def _bits(value: float, exact: bool) -> str:
    return _log2(value, exact, 4)


def _power_of_two(log2: float) -> str:
    """2^log2, as a number while that can be read."""
    return f"{2**log2:.4g}" if log2 < 40 else f"2^{log2:.1f}"

"""`tmask diversity`: how many masks each constraint allows, over patterns or over the layers of a weight file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from tmask.blocks.pattern import Pattern
from tmask.cli.console import note, progress_bar
from tmask.cli.exit_codes import reports_errors
from tmask.cli.options import (
    Csv,
    Exclude,
    Groups,
    Include,
    Json,
    Layouts,
    Overwrite,
    Regex,
    Verbose,
    check_outputs,
    several,
)
from tmask.cli.output import show_json, show_table
from tmask.cli.rows.diversity_rows import (
    FORMULA,
    Layers,
    Totals,
    layer_numbers,
    layer_words,
    pattern_numbers,
    pattern_words,
    totals_of,
)
from tmask.cli.selection import left_out, open_selected, reasons
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
from tmask.files.layers import Layer, Selection
from tmask.files.outputs.names import check_csv_name
from tmask.plots.diversity import draw_diversity

_OF_A_FILE = ("2:4", "4:8", "8:16")


@reports_errors
def diversity(
    file: Annotated[Path | None, typer.Argument(help="Weights; without, the patterns themselves are compared.")] = None,
    pattern: Annotated[list[str], typer.Option("--pattern", "-p", help="N:M (repeatable); else usual ones.")] = [],  # noqa: B006
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw this figure (.png, .svg or .pdf).")] = None,
    include: Include = [],  # noqa: B006
    exclude: Exclude = [],  # noqa: B006
    regex: Regex = False,
    groups: Groups = [],  # noqa: B006
    layouts: Layouts = [],  # noqa: B006
    overwrite: Overwrite = False,
    json: Json = False,
    csv: Csv = None,
    verbose: Verbose = False,
) -> None:
    """Count the masks that each constraint allows: log2 of their number, per weight.

    Unstructured and structured (whole m-by-m blocks) keep the share n/m; plain N:M and transposable N:M are counted
    exactly. Without a file, the paper's product formula stands beside the exact count.
    """
    parsed = list(dict.fromkeys(map(Pattern.parse, several(pattern) or (_OF_A_FILE if file else DEFAULT_PATTERNS))))
    check_outputs([file] if file else [], [plot, csv], overwrite)
    check_csv_name(csv)
    # An option that would do nothing is an error.
    if file is None:
        if include or exclude or regex or groups or layouts:
            raise InvalidProblemError(
                "--include, --exclude, --regex, --groups and --layout choose layers: give a weight file"
            )
        _of_patterns(parsed, plot, overwrite, json, csv)
        return
    _, selection = open_selected(file, parsed, include, exclude, regex, groups, layouts, csv)
    by_pattern, missing = _count_layers(selection.layers, parsed)
    _of_layers(file, selection, by_pattern, plot, overwrite, json, csv)
    for remark in (*left_out(selection, verbose), *missing):
        note(remark)


def _of_patterns(patterns: Sequence[Pattern], plot: Path | None, overwrite: bool, json: bool, csv: Path | None) -> None:
    found = _count_patterns(patterns)
    rows = [pattern_numbers(one) for one in found]
    if plot is not None:
        _draw_patterns(found, plot, overwrite)
    if csv is not None:
        write_csv(csv, rows, overwrite)
    if json:
        show_json({"patterns": rows})
        return
    title = "Masks that a constraint allows: transposable ones of an m-by-m tile, then bits per weight"
    show_table(title, [pattern_words(one) for one in found])
    for one in found:
        if one.masks is None:
            low, high = transposable_bounds(one.pattern.n, one.pattern.m)
            note(f"{one.pattern}: its log2 is an estimate; proven to be from {low:.2f} to {high:.2f}")


def _count_patterns(patterns: Sequence[Pattern]) -> list[PatternDiversity]:
    found: list[PatternDiversity] = []
    with progress_bar(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as bar:
        for pattern in patterns:
            task = bar.add_task(str(pattern))
            found += pattern_diversity([pattern])
            bar.remove_task(task)
    return found


def _draw_patterns(found: Sequence[PatternDiversity], path: Path, overwrite: bool) -> None:
    bits = {
        one.pattern: dict(one.bits) | {FORMULA: (one.log2 + one.log2_overcount) / one.pattern.m**2} for one in found
    }
    estimated = [(one.pattern, "transposable") for one in found if one.masks is None]
    draw_diversity(bits, path, estimated=estimated, overwrite=overwrite)


def _of_layers(
    file: Path,
    selection: Selection,
    by_pattern: dict[Pattern, Layers],
    plot: Path | None,
    overwrite: bool,
    json: bool,
    csv: Path | None,
) -> None:
    rows = layer_numbers(by_pattern, {layer.name: layer for layer in selection.layers})
    totals = {pattern: totals_of(layers) for pattern, layers in by_pattern.items()}
    if plot is not None:
        _draw_totals(totals, f"Mask diversity of {file.name}", plot, overwrite)
    if csv is not None:
        write_csv(csv, rows, overwrite)
    if json:
        by_text = {str(pattern): of for pattern, of in totals.items()}
        show_json({"layers": rows, "totals": by_text, "skipped": reasons(selection)})
        return
    for pattern, layers in by_pattern.items():
        table = layer_words(layers, totals[pattern], {layer.name: layer.read_as for layer in selection.layers})
        show_table(f"{pattern} on {file.name}: bits per weight", table, texts=("layer", "read as"))
        if any(not total["exact"] for total in totals[pattern].values()):
            note(f"{pattern}: numbers with ~ are estimates, since the exact count is out of reach")


def _count_layers(layers: Sequence[Layer], patterns: Sequence[Pattern]) -> tuple[dict[Pattern, Layers], list[str]]:
    """Every layer under every pattern, and remarks on what could not be counted."""
    by_pattern: dict[Pattern, Layers] = {}
    missing: list[str] = []
    with progress_bar(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as bar:
        for pattern in patterns:
            task = bar.add_task(str(pattern))
            found: dict[str, dict[str, Diversity]] = {}
            for layer in layers:
                found[layer.name], problem = _count_layer(layer, pattern)
                missing += [f"{pattern}, {problem}"] if problem else []
            by_pattern[pattern] = found
            bar.remove_task(task)
    return by_pattern, missing


def _count_layer(layer: Layer, pattern: Pattern) -> tuple[dict[str, Diversity], str]:
    """One layer by constraint, without transposable masks where these cannot be counted; and why, or ""."""
    shapes, groups, layouts = {layer.name: layer.shape}, {layer.name: layer.groups}, {layer.name: layer.layout}
    try:
        return model_diversity(shapes, pattern, groups=groups, layouts=layouts)[layer.name], ""
    except InvalidProblemError as error:
        # One layer that is out of reach must not cost the others their numbers.
        others = [constraint for constraint in CONSTRAINTS if constraint != "transposable"]
        return model_diversity(shapes, pattern, others, groups=groups, layouts=layouts)[layer.name], str(error)


def _draw_totals(totals: dict[Pattern, Totals], title: str, path: Path, overwrite: bool) -> None:
    bits = {pattern: {name: one["bits_per_weight"] for name, one in of.items()} for pattern, of in totals.items()}
    estimated = [(pattern, name) for pattern, of in totals.items() for name, one in of.items() if not one["exact"]]
    draw_diversity(bits, path, title=title, estimated=estimated, overwrite=overwrite)

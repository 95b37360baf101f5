"""The layers of a weight file that a command works on, as its options choose them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tmask.blocks.pattern import Pattern
from tmask.cli.options import parse_groups, parse_layouts
from tmask.files.csv_files import check_texts
from tmask.files.layers import Selection, select_layers
from tmask.files.opening import open_weights
from tmask.files.weight_file import WeightFile


def open_selected(
    path: Path,
    patterns: Iterable[Pattern],
    include: Sequence[str],
    exclude: Sequence[str],
    regex: bool,
    groups: list[str],
    layouts: list[str],
    csv: Path | None = None,
) -> tuple[WeightFile, Selection]:
    """The file, and what is chosen of it; a layer must have a full tile of the smallest of the patterns.

    Names of layers are also held against the CSV file that is asked for, before any work.
    """
    weights = open_weights(path)
    side = min(pattern.m for pattern in patterns)
    selection = select(weights, include, exclude, regex, groups, layouts, side)
    if csv is not None:
        check_texts([path.stem, *(layer.name for layer in selection.layers)])
    return weights, selection


def select(
    weights: WeightFile,
    include: Sequence[str],
    exclude: Sequence[str],
    regex: bool,
    groups: list[str],
    layouts: list[str],
    side: int | None = None,
) -> Selection:
    """What the options choose of a file, see `select_layers`; with what its model says of its convolutions."""
    return select_layers(
        weights,
        include,
        exclude,
        regex=regex,
        groups=parse_groups(groups),
        layouts=parse_layouts(layouts),
        side=side,
        convolutions=groups_of_model,
    )


def groups_of_model(file: WeightFile) -> Mapping[str, int]:
    """Groups of the convolutions of the model that the config beside a file describes."""
    if not (file.path.parent / "config.json").is_file() or importlib.util.find_spec("torch") is None:
        return {}
    from tmask.nn.calibration.model_convolutions import model_convolutions  # late, since it imports torch

    return model_convolutions(file)


def left_out(selection: Selection, verbose: bool) -> list[str]:
    """Remarks on how layers are read, and on all that gets no mask: numbers for a whole file must not hide them."""
    why = reasons(selection)
    what = "1 tensor gets no mask and was" if len(why) == 1 else f"{len(why)} tensors get no mask and were"
    return [*selection.remarks, *([f"{what} left out: {counted(why, verbose)}"] if why else [])]


def counted(why: Mapping[str, str], verbose: bool) -> str:
    """Reasons by name, in one line: how many tensors have each; their names where asked for, or where it has one."""
    names: dict[str, list[str]] = {}
    for name, reason in why.items():
        names.setdefault(reason, []).append(name)
    if verbose:
        return "; ".join(f"{reason}: {', '.join(of)}" for reason, of in names.items())
    listed = "; ".join(
        f"{reason}: {of[0]}" if len(of) == 1 else f"{reason} ({len(of)})" for reason, of in names.items()
    )
    return listed + ("; --verbose names them" if len(names) < len(why) else "")


def reasons(selection: Selection) -> dict[str, str]:
    """Why each tensor that is left out gets no mask, for JSON."""
    return {item.name: item.reason for item in selection.skipped}

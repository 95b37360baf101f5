"""The layers of a weight file that a command works on, as its options choose them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tmask.cli.options import parse_groups
from tmask.files.csv_files import check_texts
from tmask.files.layers import Selection, select_layers
from tmask.files.opening import open_weights
from tmask.files.weight_file import WeightFile


def open_selected(
    path: Path, include: Sequence[str], exclude: Sequence[str], regex: bool, groups: list[str], csv: Path | None = None
) -> tuple[WeightFile, Selection]:
    """The file, and what is chosen of it, in whose names the CSV file that is asked for has no trouble."""
    weights = open_weights(path)
    selection = select_layers(weights, include, exclude, regex=regex, groups=parse_groups(groups))
    if csv is not None:
        check_texts([path.stem, *(layer.name for layer in selection.layers)])
    return weights, selection


def left_out(selection: Selection) -> list[str]:
    """A remark on the tensors that get no mask, if there are any: numbers for a whole file must not hide them."""
    count = len(selection.skipped)
    return [f"{count} tensors get no mask and were left out; `tmask solve` lists them"] if count else []

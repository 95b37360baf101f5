"""The masks of a pruned directory in files: as `tmask solve` writes them where that format can hold them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from tmask.blocks.pattern import Pattern
from tmask.blocks.tiling import Mask, Tiling
from tmask.files.masks import MaskRecord, write_masks
from tmask.files.packed_mask import PackedMask
from tmask.files.weight_file import WeightFile
from tmask.nn.blockwise.choice import MatrixChoice
from tmask.nn.blockwise.memory.masks import PackedMasks
from tmask.nn.blockwise.pruning import MatrixPruning
from tmask.nn.blockwise.stored import Parts
from tmask.nn.methods.support import Transposable

MASKS, OTHER_MASKS = "masks.safetensors", "masks.npz"


@dataclass(frozen=True, slots=True)
class Written:
    """A pruned model in files.

    Args:
        file: its weights.
        parts: of the parameters in them.
        choice: what masks were asked for.
        job: how they were found, in words.
    """

    file: WeightFile
    parts: Parts
    choice: MatrixChoice
    job: str


def write_mask_files(folder: Path, masks: Mapping[str, Tensor], rows: Sequence[MatrixPruning], model: Written) -> None:
    """Write transposable masks of matrices to one file, and what is no such mask to another.

    The others are plain and unstructured masks, and those of stacks that the model's files hold as stacks.
    """
    others = PackedMasks()
    write_masks(folder / MASKS, _records(masks, rows, model, others), overwrite=True)
    if others:
        others.save(folder / OTHER_MASKS)
    if len(others) == len(masks):
        (folder / MASKS).unlink()  # it holds none


def _records(
    masks: Mapping[str, Tensor], rows: Sequence[MatrixPruning], model: Written, others: PackedMasks
) -> Iterator[MaskRecord]:
    """One by one, since a mask takes eight times the memory before it is packed."""
    by_parameter: dict[str, list[MatrixPruning]] = {}
    for row in rows:
        by_parameter.setdefault(row.name.partition("[")[0], []).append(row)
    for name in masks:
        mask, support, parts = masks[name], model.choice.support(name), model.parts[name]
        cut = [part.of(mask).numpy() for part in parts]
        pattern = support.pattern if isinstance(support, Transposable) else None
        # Where files hold pieces of what was pruned as one, tiles may be cut through.
        if pattern is None or any(each.ndim != 2 or _lines(each, pattern)[1] > pattern.n for each in cut):
            others[name] = mask
            continue
        own = by_parameter[name]
        for part, each in zip(parts, cut, strict=True):
            yield _record(part.name, each, pattern, own, len(parts), model)


def _record(
    name: str, mask: Mask, pattern: Pattern, rows: Sequence[MatrixPruning], parts: int, model: Written
) -> MaskRecord:
    """Of the pruned weights, all of which lie on the mask: that is what a reader of the file can check.

    What is proven of the scores that decided the mask, which the dense weights had, stands in the report.
    """
    tensor = model.file.read(name)
    total = float(np.abs(tensor.values()).sum(dtype=np.float64))
    full = _lines(mask, pattern)[0] == pattern.n
    return MaskRecord(
        name=name,
        packed=PackedMask.of(mask),
        pattern=pattern,
        groups=1,
        solver=rows[0].solver,
        settings="",
        objective=total,
        dual_bound=total,
        total=total,
        status="optimal" if full else "underfilled",
        seconds=sum(row.seconds for row in rows) / parts,
        weights_sha256=tensor.sha256(),
        job=model.job,
    )


def _lines(mask: Mask, pattern: Pattern) -> tuple[int, int]:
    """The fewest entries kept in a line of a full tile, and the most in a line of any tile."""
    tiling = Tiling(mask.shape, pattern)
    fewest, most = pattern.n, 0
    for region, blocks in zip(tiling.regions(), tiling.split(mask), strict=True):
        for axis in (1, 2):
            counts = blocks.sum(axis, dtype=np.int64)
            most = max(most, int(counts.max()))
            fewest = min(fewest, int(counts.min())) if region.full else fewest
    return fewest, most

"""Bands put together: one mask with the proof of all, since objectives and bounds add over blocks."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tmask.errors import FileFormatError
from tmask.files.bands import Band, num_lines, unit_lines
from tmask.files.masks import MaskRecord
from tmask.files.packed_mask import PackedMask
from tmask.files.stretches import tensor_stretch
from tmask.files.weight_file import WeightFile
from tmask.judging.solution import Status, status_of
from tmask.judging.worth import Worth

# A band, and the shard that holds it.
Held = tuple[Band, Mapping[str, MaskRecord]]


def bands_by_weight(shards: Mapping[Path, Mapping[str, MaskRecord]]) -> dict[str, list[Held]]:
    """The bands of each weight that comes in some, in order."""
    found: dict[str, list[Held]] = {}
    for records in shards.values():
        for record in records.values():
            if record.band is not None:
                found.setdefault(record.band.of, []).append((record.band, records))
    return {of: sorted(held, key=lambda one: one[0].first) for of, held in found.items()}


def join(held: Sequence[Held], source: WeightFile) -> MaskRecord:
    """The record of a weight, from all its bands.

    Raises:
        FileFormatError: bands that do not make up the weight, or weights that cannot be read.
    """
    band = held[0][0]
    mask = np.empty(math.prod(band.whole), np.bool_)
    records = []
    for one, shard in held:
        record = shard[one.name]
        mask[slice(*one.entries)] = record.packed.unpack().reshape(-1)
        records.append(replace(record, packed=PackedMask.of(np.zeros(0, np.bool_))))  # bits are no longer needed
    _check_whole([one for one, _ in held], records)
    worth = Worth.sum(Worth(record.objective, record.total, record.dual_bound) for record in records)
    statuses = {record.status for record in records}
    first = replace(records[0], name=band.of, packed=PackedMask.of(mask.reshape(band.whole)), band=None)
    return replace(
        first,
        groups=band.groups,
        layout=band.layout,
        solver="+".join(dict.fromkeys(name for record in records for name in record.solver.split("+"))),
        objective=worth.objective,
        dual_bound=worth.dual_bound,
        total=worth.total,
        status=str(status_of(worth, Status.UNDERFILLED in statuses, Status.LIMIT in statuses)),
        seconds=sum(record.seconds for record in records),
        weights_sha256=tensor_stretch(band.of, source).sha256(),
        job=re.sub(r" groups=\d+ layout=\w+", f" groups={band.groups} layout={band.layout}", first.job),
    )


def _check_whole(bands: Sequence[Band], records: Sequence[MaskRecord]) -> None:
    """Return if the bands are those of one weight, one behind the other, cut between its tiles."""
    first, m = bands[0], records[0].pattern.m
    unit = unit_lines(first.whole, first.groups, first.layout)
    ends = [0, *(band.last for band in bands)]
    fits = ends[-1] == num_lines(first.whole, first.layout) and all(
        (band.whole, band.groups, band.layout, band.first) == (first.whole, first.groups, first.layout, end)
        and band.first % unit % m == 0
        for band, end in zip(bands, ends[:-1], strict=True)
    )
    kinds = {(record.pattern, record.settings, record.at_most) for record in records}
    if not fits or len(kinds) > 1:
        raise FileFormatError(f"the bands of {first.of!r} do not make it up; solve their shards again")

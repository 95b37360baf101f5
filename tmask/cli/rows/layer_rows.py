"""The layers of a mask file as rows, for tables, JSON and CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tmask.blocks.layouts import in_words
from tmask.cli.output import Row
from tmask.files.masks import MaskRecord
from tmask.judging.worth import Worth
from tmask.showing.numbers import number, percent


def describe(record: MaskRecord) -> dict[str, Any]:
    """One layer, in numbers."""
    # What a resumed run compares, of no use to a reader; and what the name of a band says, and no other row has.
    known = {key: value for key, value in record.metadata().items() if key not in ("job", "band")}
    worth = _worth(record)
    return known | {"retained": worth.retained, "optimality_gap": worth.optimality_gap}


def total(records: Sequence[MaskRecord]) -> dict[str, Any]:
    """All layers together."""
    worth = Worth.sum(map(_worth, records))
    statuses = {record.status for record in records}
    return {
        "objective": worth.objective,
        "dual_bound": worth.dual_bound,
        "retained": worth.retained,
        "optimality_gap": worth.optimality_gap,
        "status": statuses.pop() if len(statuses) == 1 else "mixed",
        "seconds": sum(record.seconds for record in records),
    }


def solve_rows(records: Sequence[MaskRecord]) -> list[Row]:
    """A row for each layer and one for all, in words."""
    named: list[tuple[str, str, str, dict[str, Any]]] = [
        (
            record.name,
            "x".join(map(str, record.packed.shape)),
            in_words(record.packed.shape, record.layout, record.groups),
            describe(record),
        )
        for record in records
    ]
    named.append((f"all {len(records)}", "", "", total(records)))
    return [
        {
            "layer": name,
            "shape": shape,
            "read as": layout,
            "objective": f"{row['objective']:.6g}",
            "retained": percent(row["retained"]),
            "proven gap": percent(row["optimality_gap"], 4),
            "status": row["status"],
            "seconds": number(row["seconds"]),
        }
        for name, shape, layout, row in named
    ]


def _worth(record: MaskRecord) -> Worth:
    return Worth(record.objective, record.total, record.dual_bound)

"""What a user reads: a report of every weight, and the figures of each renewal."""

from __future__ import annotations

from dataclasses import dataclass

from tmask.blocks.pattern import Pattern
from tmask.judging.worth import Worth
from tmask.showing.cards import Card, Shown, table_lines


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One weight of the model.

    Args:
        layer: full name of the parameter, such as "encoder.0.linear1.weight".
        shape: of the weight.
        pattern: that training ends with; None if the weight was skipped.
        step: at which its present mask was found; None while there is none.
        retained, gap: of that mask, at that step; see `tmask.Worth`.
        backend: that multiplies with it; "" if skipped.
        reason: why it was skipped, or why it does not run on a faster backend; "" otherwise.
        tied: other names of the same weight.
    """

    layer: str
    shape: tuple[int, ...]
    pattern: Pattern | None = None
    step: int | None = None
    retained: float | None = None
    gap: float | None = None
    backend: str = ""
    reason: str = ""
    tied: tuple[str, ...] = ()

    @property
    def skipped(self) -> bool:
        """Whether it has no mask."""
        return self.pattern is None


class Report(tuple[LayerReport, ...], Shown):
    """Rows for every weight of two or more axes; its text is a table."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\n".join([*table_lines([_cells(row) for row in self]), self._count()])

    def card(self) -> Card:
        """What a notebook shows."""
        return Card(self._count(), {}, [_cells(row) for row in self])

    def _count(self) -> str:
        return f"{sum(not row.skipped for row in self)} of {len(self)} weights masked"


@dataclass(frozen=True, slots=True)
class LayerRenewal:
    """One layer's part of a renewal.

    Args:
        layer: full name of the parameter.
        pattern: in force from now on; None for dense.
        worth: of the new mask.
        flips: mask bits that changed, of `size`.
        seconds: to find the mask on the weight's device, transfers and certificate included.
    """

    layer: str
    pattern: Pattern | None
    worth: Worth
    flips: int
    size: int
    seconds: float

    @property
    def flip_rate(self) -> float:
        """Share of mask bits that changed [Hu2024]."""
        return self.flips / self.size


@dataclass(frozen=True, slots=True)
class Renewal:
    """All masks found at one step.

    Args:
        step: optimizer steps before it.
        layers: what happened to each.
        seconds: wall-clock time of the whole renewal.
    """

    step: int
    layers: tuple[LayerRenewal, ...]
    seconds: float

    @property
    def flip_rate(self) -> float:
        """Share of mask bits that changed, over all layers."""
        return sum(layer.flips for layer in self.layers) / sum(layer.size for layer in self.layers)

    @property
    def worth(self) -> Worth:
        """Of all layers together."""
        return Worth.sum(layer.worth for layer in self.layers)

    def metrics(self) -> dict[str, float]:
        """A flat table for a logger: flip_rate, retained, gap and seconds overall, and as "<figure>/<layer>"."""
        table = _figures(self.flip_rate, self.worth, self.seconds, "")
        table["step"] = self.step
        for layer in self.layers:
            table |= _figures(layer.flip_rate, layer.worth, layer.seconds, f"/{layer.layer}")
        return table


def _figures(flip_rate: float, worth: Worth, seconds: float, suffix: str) -> dict[str, float]:
    figures = {"flip_rate": flip_rate, "retained": worth.retained, "gap": worth.optimality_gap, "seconds": seconds}
    return {name + suffix: value for name, value in figures.items() if value is not None}


def _cells(row: LayerReport) -> dict[str, str]:
    remark = "; ".join(filter(None, [row.reason, f"tied to {', '.join(row.tied)}" if row.tied else ""]))
    return {
        "layer": row.layer,
        "shape": "x".join(map(str, row.shape)),
        "pattern": "-" if row.pattern is None else str(row.pattern),
        "retained": "-" if row.retained is None else f"{row.retained:.2%}",
        "gap": "-" if row.gap is None else f"{row.gap:.2g}",
        "backend": row.backend or "skipped",
        "remark": remark,
    }

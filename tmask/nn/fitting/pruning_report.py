"""What pruning did to each layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tmask.nn.names import ByLayer


@dataclass(frozen=True, slots=True)
class LayerPruning:
    """One layer.

    Args:
        layer: full name of the weight, such as "encoder.fc1.weight".
        shape: of the weight, outputs first.
        pattern: as text, "" for a mask from elsewhere.
        transposable: along both axes.
        density: share of the weights that is kept.
        retained: share of the score that is kept.
        optimality_gap: of the mask, proven; None if it was not certified.
        solver: that found the mask.
        error_masked: of the layer's outputs on the calibration data with the mask alone, as a share of their squares;
            of what varies, where a bias or a batch norm behind it takes up the mean.
        error: the same of the weights as they were written. After a refit at most error_masked, rounding of the
            weight's dtype aside; a sweep without one (`sparsegpt` with refit=False) promises nothing.
        samples: that the layer read.
        seconds: for data, mask and refit.
        remark: what to look at, or "".
    """

    layer: str
    shape: tuple[int, ...]
    pattern: str
    transposable: bool
    density: float
    retained: float
    optimality_gap: float | None
    solver: str
    error_masked: float
    error: float
    samples: int
    seconds: float
    remark: str = ""


@dataclass(frozen=True, slots=True)
class PruningReport:
    """A model that was pruned.

    Args:
        layers: in the order in which data passes them.
        skipped: reasons by name, of all other parameters of two axes or more.
        masks: by the parameter's name, bool in its shape, True = kept; of a stack in which some matrices stayed dense,
            all True there. Both are looked up by a module's name too.
        batch_norms: whose statistics were recomputed.
        seconds: in all.
    """

    layers: tuple[LayerPruning, ...]
    skipped: ByLayer[str]
    masks: ByLayer[Tensor] = field(repr=False)
    batch_norms: int
    seconds: float

    def table(self) -> list[dict[str, Any]]:
        """A row for each pruned layer."""
        # Written out: the names are columns of tables and files, and stay when a field is renamed.
        return [
            {
                "layer": row.layer,
                "shape": "x".join(map(str, row.shape)),
                "pattern": row.pattern,
                "transposable": row.transposable,
                "density": row.density,
                "retained": row.retained,
                "optimality_gap": row.optimality_gap,
                "solver": row.solver,
                "error_masked": row.error_masked,
                "error": row.error,
                "samples": row.samples,
                "seconds": row.seconds,
                "remark": row.remark,
            }
            for row in self.layers
        ]

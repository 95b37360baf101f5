"""What was done to a model, block by block."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from tmask.nn.blockwise.memory.masks import PackedMasks
from tmask.nn.blockwise.pruning import BlockPruning, MatrixPruning
from tmask.showing.cards import Card, Shown
from tmask.showing.error_figures import draw_errors
from tmask.showing.numbers import number, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class BlockRow:
    """A block when all was done to it.

    Args:
        name: in the model.
        error: relative squared error of the hidden states behind it to those of the dense model, on the calibration
            data, after tuning and rounding; None where the dense model was not run beside (goal "layer").
    """

    name: str
    error: float | None


@dataclass(frozen=True, slots=True)
class BlockwiseReport(Shown):
    """A model that was pruned block by block.

    Args:
        rows: a matrix each, in the order in which they were pruned.
        skipped: reasons by name, of all other parameters of two axes or more.
        masks: by the parameter's name, bool in its shape, True = kept; unpacked when they are asked for.
        seconds: in all.
        blocks: with the errors that are left behind them, in their order.
    """

    rows: tuple[MatrixPruning, ...]
    skipped: Mapping[str, str] = field(repr=False)
    masks: Mapping[str, Tensor] = field(repr=False)
    seconds: float
    blocks: tuple[BlockRow, ...] = ()

    @property
    def error(self) -> float:
        """The mean of the matrices' relative errors, each when it was pruned.

        That is before a block's tuning, and before rounding to the type of the files; `blocks` tells what is left
        after both.
        """
        known = [row.error for row in self.rows if not math.isnan(row.error)]
        return sum(known) / len(known) if known else float("nan")

    def table(self) -> list[dict[str, Any]]:
        """A row for each matrix."""
        return [dataclasses.asdict(row) | {"shape": "x".join(map(str, row.shape))} for row in self.rows]

    def document(self) -> dict[str, Any]:
        """All but the masks, for JSON."""
        return {
            "seconds": self.seconds,
            "mean_error": self.error,
            "blocks": [dataclasses.asdict(block) for block in self.blocks],
            "matrices": [dataclasses.asdict(row) for row in self.rows],
            "skipped": dict(self.skipped),
        }

    def __repr__(self) -> str:
        return (
            f"<BlockwiseReport: {len(self.rows)} matrices pruned, {len(self.skipped)} left dense, "
            f"mean error {percent(self.error)}, {number(self.seconds)} s; print() it for a table>"
        )

    def __str__(self) -> str:
        return self.card().text()

    def card(self) -> Card:
        """What a notebook shows: a row for each matrix."""
        facts = {
            "matrices pruned": str(len(self.rows)),
            "left dense": str(len(self.skipped)),
            "mean error": percent(self.error),
            "seconds": number(self.seconds),
        }
        notes = [f"left dense: {name}: {reason}" for name, reason in self.skipped.items()]
        return Card("Pruned, block by block", facts, [_words(row) for row in self.rows], (), notes)

    def plot(self) -> Figure:
        """The error of each matrix, as a figure of matplotlib.

        Raises:
            SolverUnavailableError: matplotlib is not installed.
        """
        errors = {"as written": [row.error for row in self.rows]}
        return draw_errors([row.name for row in self.rows], errors, "Error by matrix")


def _words(row: MatrixPruning) -> dict[str, str]:
    return {
        "matrix": row.name,
        "shape": "x".join(map(str, row.shape)),
        "density": percent(row.density),
        "retained": percent(row.retained),
        "proven gap": percent(row.optimality_gap, 4),
        "solver": row.solver,
        "error": percent(row.error),
        "seconds": number(row.seconds),
    }


def make_report(model: nn.Module, done: Iterable[BlockPruning], seconds: float) -> BlockwiseReport:
    """Put the blocks together; matrices that no block accounts for are named too."""
    rows, skipped, masks = [], dict[str, str](), PackedMasks()
    blocks = []
    for block in done:
        rows += block.rows
        blocks.append(BlockRow(block.name, block.error))
        skipped |= block.skipped
        for name in block.masks:
            masks[name] = block.masks[name]
    known = {row.name.partition("[")[0] for row in rows} | {name.partition("[")[0] for name in skipped}
    tied = _tied(model)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and name not in known and name not in tied:
            skipped[name] = _outside(model, name)
    return BlockwiseReport(tuple(rows), skipped, masks, seconds, tuple(blocks))


def _outside(model: nn.Module, name: str) -> str:
    module = model.get_submodule(name.rpartition(".")[0])
    if isinstance(module, nn.Embedding):
        return "an embedding"
    return "in no block"


def _tied(model: nn.Module) -> Collection[str]:
    """Other names of parameters that are named already. A skeleton has them apart, where a loaded model has one."""
    config = getattr(model, "config", None)
    text = config if config is None or hasattr(config, "tie_word_embeddings") else config.get_text_config()
    names = getattr(model, "_tied_weights_keys", None)
    return names if names and getattr(text, "tie_word_embeddings", False) else ()

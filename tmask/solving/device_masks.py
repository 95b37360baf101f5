"""Masks of a region on their device: their sums, and how far they can be from the optimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tmask.blocks.tensor_blocks import Index, pieces
from tmask.errors import SolverFailedError
from tmask.judging.examining import PIECE_ENTRIES, Judged
from tmask.judging.tensor_judging import is_regular, magnitudes, proves_optimal, unproven
from tmask.judging.worth import Worth
from tmask.solving.reference import judge_blocks
from tmask.solving.tensor_solver import TensorProof, TensorSolver

if TYPE_CHECKING:
    from torch import Tensor


class Sums(NamedTuple):
    """What is fetched of the masks of a region; scores and counts as in `tmask.judging.tensor_judging.examine`."""

    objective: float
    total: float
    over: float
    irregular: float
    unproven: float
    slack: float

    def worth(self, dual_bound: float | None) -> Worth:
        """With a bound that was found since."""
        return Worth(self.objective, self.total, dual_bound)


@dataclass(slots=True)
class DeviceMasks:
    """Masks with the scores that they were made for.

    Args:
        values: (K, G, down, across, m, m), a view; scores are |values|.
        masks: bool of that shape, a view.
        proof: of the solver, blocks in that order.
    """

    solver: TensorSolver
    n: int
    values: Tensor
    masks: Tensor
    proof: TensorProof

    @property
    def has_proof(self) -> bool:
        """Whether the solver gave anything that bounds the optimum."""
        return self.proof.slack is not None or self.proof.col_prices is not None

    @property
    def part(self) -> Judged:
        """What is examined of them."""
        return Judged(self.values, self.masks, self.n, self._prices())

    def refuse_wrong(self, known: Sums) -> None:
        """Return if all masks are masks of this pattern; raise SolverFailedError if not."""
        if known.over or (self.solver.exact and known.irregular):
            what = f"{known.over:.0f} lines with more than {self.n}" if known.over else f"{known.irregular:.0f} blocks"
            raise SolverFailedError(
                f"solver {self.solver.name!r} returned what is no mask of {self.n} per row and column on "
                f"{self.masks.device}: {what}; please report this"
            )

    def excess(self, known: Sums) -> float:
        """By how much the optimum can exceed the objective."""
        prices = self._prices()
        if prices is None:
            return known.slack
        if not known.unproven:
            return 0.0
        limit = PIECE_ENTRIES // self.values.shape[5] ** 2
        return sum(self._excess_of_piece(index, prices[index]) for index in pieces(self.values.shape[:4], limit))

    def _excess_of_piece(self, index: Index, prices: Tensor) -> float:
        """The same for a piece: exactly on the device, on the CPU for the blocks that this does not prove."""
        values, masks_here = self.values[index], self.masks[index]
        at = unproven(magnitudes(values), masks_here, self.n, prices).nonzero(as_tuple=True)
        scores, masks, v = magnitudes(values[at]), masks_here[at], prices[at]  # (b, m, m)
        # What ties after rounding is looked at as pairs; that leaves next to nothing for the transfer.
        left = (~(is_regular(masks, self.n) & proves_optimal(scores, masks, v))).nonzero()[:, 0]
        if not len(left):
            return 0.0
        s, kept, price = (x[left].cpu().numpy() for x in (scores, masks, v.double()))
        judged = judge_blocks(s, kept, self.n, price)
        return float((judged.bound - judged.objective).sum())

    def _prices(self) -> Tensor | None:
        """(K, G, down, across, m) column prices; None where there are none, or a slack instead."""
        # A solver that gives a slack has proven its masks itself; prices beside it are a start, and need prove nothing.
        if self.proof.slack is not None or self.proof.col_prices is None:
            return None
        return self.proof.col_prices.reshape(self.values.shape[:5])

"""Masks of a region on their device: their sums, and how far they can be from the optimum."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from tmask.blocks.tensor_blocks import Index, pieces
from tmask.errors import SolverFailedError
from tmask.judging.tensor_judging import examine, is_regular, magnitudes, proves_optimal
from tmask.judging.worth import Worth
from tmask.solving.reference import judge_blocks
from tmask.solving.tensor_solver import TensorProof, TensorSolver

if TYPE_CHECKING:
    from torch import Tensor

_PIECE_ENTRIES = 1 << 25  # looked at together, which bounds the memory for it


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
    _unproven: list[tuple[Index, Tensor]] = field(default_factory=list)

    @property
    def has_proof(self) -> bool:
        """Whether the solver gave anything that bounds the optimum."""
        return self.proof.slack is not None or self.proof.col_prices is not None

    def sums(self) -> Tensor:
        """(6,) float64, the numbers of `Sums`, not fetched yet."""
        import torch

        # In pieces, since what is looked at is copied: as float32, as differences, as counts.
        prices = self._prices()
        rows = []
        self._unproven.clear()
        for index in pieces(self.values.shape[:4], _PIECE_ENTRIES // self.values.shape[5] ** 2):
            v = None if prices is None else prices[index]
            looked = examine(self.values[index], self.masks[index], self.n, v)
            rows.append(looked.sums)
            if looked.unproven is not None:
                self._unproven.append((index, looked.unproven))
        sums = torch.stack(rows).sum(0)
        slack = self.proof.slack
        return torch.cat((sums, (sums.new_zeros(()) if slack is None else slack).reshape(1)))

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
        return sum(self._excess_of_piece(index, at.nonzero(as_tuple=True), prices) for index, at in self._unproven)

    def _excess_of_piece(self, index: Index, at: tuple[Tensor, ...], prices: Tensor) -> float:
        """The same for the blocks `at` of a piece: exactly on the device, on the CPU for what that does not prove."""
        scores, masks, v = magnitudes(self.values[index][at]), self.masks[index][at], prices[index][at]  # (b, m, m)
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

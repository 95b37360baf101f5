"""The interface of solvers that take torch tensors where they lie, and what the rest of the core knows of tensors.

Legend: B blocks of side m; matrices (K, G, h, w), one for each kernel position and group, with m dividing h and w.

Nothing here imports torch when it is imported: a tensor can only come from a process that has done so.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tmask.blocks.arrays import Scores
from tmask.blocks.tensor_blocks import cut_tiles
from tmask.errors import SolverFailedError
from tmask.judging.answers import Answer
from tmask.solving.guard import to_its_author
from tmask.solving.solver import Solver

if TYPE_CHECKING:
    from torch import Tensor

# Device types without float64, in which sums and proofs are made.
WITHOUT_FLOAT64 = ("mps",)


@dataclass(frozen=True, slots=True)
class TensorProof:
    """What a solver claims of its masks, on their device.

    Args:
        row_prices, col_prices: (B, m) float32 or float64, or None. The column prices are checked: each row must keep
            its n largest of score - price. Row prices are what the solver had; the proof does not need them.
        slack: () float64, at least 0: the solver has proven by an argument of its own that all masks together lose no
            more than this against the optimum. It is taken for that, and prices are not looked at.
    """

    row_prices: Tensor | None = None
    col_prices: Tensor | None = None
    slack: Tensor | None = None


@dataclass(frozen=True, slots=True)
class TensorAnswer:
    """What a solver returns for scores (B, m, m), on their device; the other fields are those of `TensorProof`.

    Args:
        masks: (B, m, m) bool, True = kept; never more than n per row or column.
    """

    masks: Tensor
    row_prices: Tensor | None = None
    col_prices: Tensor | None = None
    slack: Tensor | None = None

    @property
    def proof(self) -> TensorProof:
        """Without the masks."""
        return TensorProof(self.row_prices, self.col_prices, self.slack)


class TensorSolver(Solver):
    """A solver that takes tensors on some devices, and arrays by way of a tensor.

    Class constants:
        device_types: the torch device types that it runs on, () for all that have float64.
    """

    device_types: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def takes_device(cls, device_type: str) -> bool:
        """Whether it runs on torch devices of this type."""
        return device_type in cls.device_types if cls.device_types else device_type not in WITHOUT_FLOAT64

    @abstractmethod
    def solve_tensor(self, scores: Tensor, n: int) -> TensorAnswer:
        """Masks for scores (B, m, m) on a device that it takes, and all results there.

        Scores are float16, bfloat16, float32 or float64, >= 0 and finite, contiguous, and not to be changed; B >= 1,
        0 < n < m. It synchronises with the device only where it needs a number to go on.
        """

    def solve_matrices(self, weights: Tensor, n: int, m: int, masks: Tensor) -> TensorProof:
        """Write masks that keep the most |weight| to `masks`; blocks count in the order of (K, G, down, across).

        This implementation copies the blocks for `solve_tensor`; a solver that reads matrices as they are overrides it.

        Args:
            weights: (K, G, h, w), of any sign and strides, perhaps not finite. What is not must do no harm; the caller
                refuses it later.
            masks: bool of that shape and any strides.
        """
        tiles = cut_tiles(weights, m, m)
        scores = tiles.reshape(-1, m, m).abs().nan_to_num_(nan=0.0, posinf=0.0)  # reshaping copies, or abs does
        answer = self.solve_tensor(scores, n)
        refuse_wrong_types(self, answer, tuple(scores.shape))
        cut_tiles(masks, m, m).copy_(answer.masks.reshape(tiles.shape))
        return answer.proof

    def solve_many(self, matrices: Sequence[tuple[Tensor, Tensor]], n: int, m: int) -> list[TensorProof]:
        """`solve_matrices` for pairs of weights and masks, on one device.

        This implementation takes one after the other; a solver that can take them together overrides it.
        """
        return [self.solve_matrices(weights, n, m, masks) for weights, masks in matrices]

    def _solve(self, scores: Scores, n: int) -> Answer:
        import torch

        # Arrays have no device to stay on, so the first one that it runs on will do.
        device = self.device_types[0] if self.device_types else "cpu"
        shared = scores if scores.flags.writeable else scores.copy()  # torch has no read-only tensors, and warns
        answer = self.solve_tensor(torch.from_numpy(shared).to(device), n)
        refuse_wrong_types(self, answer, scores.shape)
        prices = None if answer.col_prices is None else answer.col_prices.double().cpu().numpy()
        return Answer(np.asarray(answer.masks.cpu().numpy()), prices)


def refuse_wrong_types(solver: TensorSolver, answer: object, shape: tuple[int, ...]) -> None:
    """Return if it is a TensorAnswer with masks of this shape (B, m, m); raise SolverFailedError if not."""
    import torch

    masks = answer.masks if isinstance(answer, TensorAnswer) else answer
    if isinstance(masks, torch.Tensor):
        found = f"{str(masks.dtype).removeprefix('torch.')} {tuple(masks.shape)}"
        fits = isinstance(answer, TensorAnswer) and masks.dtype == torch.bool and tuple(masks.shape) == shape
    else:
        found, fits = f"a {type(masks).__name__}", False
    if not fits:
        raise SolverFailedError(
            f"solver {solver.name!r}: solve_tensor returned {found}, expected TensorAnswer(masks) with bool {shape}; "
            f"{to_its_author(solver)}"
        )

"""The midpoint iteration in CUDA kernels, for tensors that lie on an NVIDIA GPU.

The method is that of `midpoint`, with a warp on whole tiles: `cuda_kernels.rounds` iterates until the columns balance
and lists the tiles that do not, and `cuda_kernels.paths` solves those by shortest augmenting paths. 1:4, 2:4 and 3:4
have closed forms (`cuda_kernels.closed`). Weights are read and masks are written where they lie, whatever their
strides, on PyTorch's current stream, and nothing waits for the host.

Kernels are compiled for each n, m and dtype when they are first used on a machine, which takes some seconds.

Cost: O(m^2 log^2 m) a round and tile, as on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tmask.blocks.tensor_blocks import cut_tiles
from tmask.solving.tensor_solver import TensorAnswer, TensorProof, TensorSolver
from tmask_solvers.cuda_kernels.closed import SIDE
from tmask_solvers.cuda_kernels.launch import ALL_PRICES, COL_PRICES, NO_PRICES, solve_by_rounds, solve_closed
from tmask_solvers.cuda_kernels.usable import require_gpu, require_tensors


@dataclass(frozen=True)
class MidpointCuda(TensorSolver):
    """Exact; up to n * m * 2^-45 of the largest score in tiles left over with scores off their grid.

    docs/explanation/exactness.md has the proof, and the grid in section 3.

    Args:
        prices: whether matrices come with column prices, from which every mask is proven once more. Without, and for
            1:4, 2:4 and 3:4 below float64, the kernels' own proof stands.
    """

    prices: bool = True

    name: ClassVar[str] = "midpoint-cuda"
    exact: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("torch", "numba_cuda")
    max_side: ClassVar[int] = 32
    device_types: ClassVar[tuple[str, ...]] = ("cuda",)

    def __post_init__(self) -> None:
        require_gpu(self.name)

    def solve_tensor(self, scores: Tensor, n: int) -> TensorAnswer:
        require_tensors(self.name, self.device_types, scores)
        masks = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
        # By rounds at side 4, too: who calls this judges blocks by their prices, which closed forms do not have.
        results = solve_by_rounds(scores[None, None, None], n, masks[None, None, None], ALL_PRICES)
        return TensorAnswer(masks, results.row_prices, results.col_prices)

    def solve_matrices(self, weights: Tensor, n: int, m: int, masks: Tensor) -> TensorProof:
        require_tensors(self.name, self.device_types, weights, masks)
        tiles, kept = cut_tiles(weights, m, m), cut_tiles(masks, m, m)
        if tiles.numel() == 0:
            return TensorProof(slack=weights.new_zeros((), dtype=torch.float64))
        if m == SIDE and weights.dtype != torch.float64:
            return TensorProof(slack=solve_closed(tiles, n, kept).slack)
        if not self.prices:
            return TensorProof(slack=solve_by_rounds(tiles, n, kept, NO_PRICES).slack)
        return TensorProof(col_prices=solve_by_rounds(tiles, n, kept, COL_PRICES).col_prices)

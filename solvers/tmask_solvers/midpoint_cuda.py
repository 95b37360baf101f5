"""The midpoint iteration in CUDA kernels, for tensors that lie on an NVIDIA GPU.

The method is that of `midpoint`, with a warp on whole tiles: `cuda_kernels.code.rounds` iterates until the columns
balance and lists the tiles that do not, and `cuda_kernels.code.paths` solves those by augmenting paths. 1:4, 2:4 and
3:4 have closed forms (`cuda_kernels.code.closed`). Weights are read and masks are written where they lie, whatever
their strides, on PyTorch's current stream, and nothing waits for the host. Matrices of one dtype and pattern are solved
by one launch, whatever their shapes.

Kernels are compiled for each n, m and dtype when they are first used on a machine, which takes some seconds.

Cost: O(m^2 log^2 m) a round and tile, as on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tmask.blocks.tensor_blocks import cut_tiles
from tmask.solving.tensor_solver import TensorAnswer, TensorProof, TensorSolver
from tmask_solvers.cuda_kernels.launch import ALL_PRICES, Results, Tiles, solve_by_rounds, solve_tiles
from tmask_solvers.cuda_kernels.one_matrix import solve_matrix
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
        tiles = [Tiles(scores[None, None, None], masks[None, None, None])]
        (results,) = solve_by_rounds(tiles, n, ALL_PRICES).results
        return TensorAnswer(masks, results.row_prices, results.col_prices)

    def solve_matrices(self, weights: Tensor, n: int, m: int, masks: Tensor) -> TensorProof:
        return self.solve_many([(weights, masks)], n, m)[0]

    def solve_many(self, matrices: Sequence[tuple[Tensor, Tensor]], n: int, m: int) -> list[TensorProof]:
        require_tensors(self.name, self.device_types, *(tensor for pair in matrices for tensor in pair))

        def cut(tensor: Tensor) -> Tensor:
            return cut_tiles(tensor, m, m)

        proofs: dict[int, TensorProof] = {}
        for chosen in _batches(matrices):
            if len(chosen) == 1:
                results = [solve_matrix(*matrices[chosen[0]], n, m, self.prices, cut)]
            else:
                tiles = [Tiles(*map(cut, matrices[k])) for k in chosen]
                results = solve_tiles(tiles, n, self.prices).results
            proofs |= zip(chosen, map(_proof_of, results), strict=True)
        # Of those without entries alone: to fill a tensor starts a kernel, too.
        return [proofs.get(k) or _of_nothing(weights) for k, (weights, _) in enumerate(matrices)]


def _proof_of(results: Results) -> TensorProof:
    if results.col_prices is None:
        return TensorProof(slack=results.slack)
    return TensorProof(col_prices=results.col_prices)


def _of_nothing(weights: Tensor) -> TensorProof:
    return TensorProof(slack=weights.new_zeros((), dtype=torch.float64))


def _batches(matrices: Sequence[tuple[Tensor, Tensor]]) -> list[list[int]]:
    """Which matrices one launch can take, by their places in the list; those without entries are in none."""
    found: dict[torch.dtype, list[int]] = {}
    for k, (weights, _) in enumerate(matrices):
        if weights.numel():
            found.setdefault(weights.dtype, []).append(k)
    # A graph would copy the numbers of many matrices at each replay, from memory that is gone by then.
    if len(matrices) > 1 and torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return [[k] for chosen in found.values() for k in chosen]
    return list(found.values())

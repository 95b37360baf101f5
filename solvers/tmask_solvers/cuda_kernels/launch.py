"""The kernels of a pattern launched one after the other, for one matrix or for many at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tmask.errors import InvalidProblemError
from tmask_solvers.cuda_kernels.code.kernels import SIDE, Kernel
from tmask_solvers.cuda_kernels.code.lines import WARP, lanes_per_tile
from tmask_solvers.cuda_kernels.code.places import numbers_of, origin_of
from tmask_solvers.cuda_kernels.device import Device, Started, on_device, to_device

# What kernels write: prices where the next one needs them, column prices of all tiles, row prices too.
NO_PRICES, COL_PRICES, ALL_PRICES = 0, 1, 2

# Warps started for each multiprocessor, which holds 32 at most: four times that, so that what is done early makes room;
# but of tiles left over there may be few.
_MANY, _FEW = 128, 32
_MOST_TILES = 2**31 - 1


class Tiles(NamedTuple):
    """One matrix: weight and mask as views (K, G, down, across, m, m), magnitudes counted, the mask bool."""

    weight: Tensor
    mask: Tensor

    @property
    def number(self) -> int:
        """How many tiles it has."""
        return math.prod(self.weight.shape[:4])


@dataclass(frozen=True, slots=True)
class Results:
    """What comes with the masks of a matrix of B tiles: row and column prices (B, m) float64 if wanted, slack ()."""

    row_prices: Tensor | None
    col_prices: Tensor | None
    slack: Tensor


class Solved(NamedTuple):
    """What a call gives, for each matrix; and what it has started, and made for that: zeros first."""

    results: list[Results]
    started: list[Started]
    made: list[Tensor]


def gives_prices(side: int, dtype: torch.dtype, prices: bool) -> bool:
    """Whether column prices come with masks, where they are wanted: closed forms have none."""
    return prices and not _is_closed(side, dtype)


def solve_tiles(matrices: Sequence[Tiles], n: int, prices: bool) -> Solved:
    """Masks of matrices of one dtype by what suits that and the side, with column prices if wanted, see above."""
    weight = matrices[0].weight
    if _is_closed(weight.shape[-1], weight.dtype):
        return solve_closed(matrices, n)
    return solve_by_rounds(matrices, n, COL_PRICES if prices else NO_PRICES)


def _is_closed(side: int, dtype: torch.dtype) -> bool:
    return side == SIDE and dtype != torch.float64


def solve_by_rounds(matrices: Sequence[Tiles], n: int, prices: int) -> Solved:
    """Masks of matrices of one dtype, on one device, with tiles of one side."""
    job = Job(matrices)
    count, m, dtype, many = job.count, job.side, job.dtype, job.many
    col_prices = torch.empty((count, m), dtype=torch.float64, device=job.device)
    # A kernel takes an array in any case; where it writes no row prices, any one will do.
    row_prices = torch.empty_like(col_prices) if prices == ALL_PRICES else col_prices
    with on_device(job.device) as device:
        warps = -(-count // (WARP // lanes_per_tile(m)))
        rounds = Kernel("rounds", n, m, dtype, many)
        device.launch(rounds, warps, _MANY, *job.memory, job.where, count, row_prices, col_prices, prices, *job.left)
        _finish(device, job, n, row_prices, col_prices, prices, warm=True)
    results = [
        Results(
            row_prices[first : first + own] if prices == ALL_PRICES else None,
            col_prices[first : first + own] if prices != NO_PRICES else None,
            slack,
        )
        for first, own, slack in zip(job.firsts, job.counts, job.slack.unbind(), strict=True)
    ]
    return Solved(results, device.started, [*job.made, col_prices])


def solve_closed(matrices: Sequence[Tiles], n: int) -> Solved:
    """The same for m = 4, of float32 or narrower, without prices."""
    job = Job(matrices)
    words = [_words(tiles.mask) for tiles in matrices]
    packed = [Tiles(tiles.weight, word) for tiles, word in zip(matrices, words, strict=True) if word is not None]
    # A row of the mask as one word is one store a thread, not four.
    all_packed = len(packed) == len(matrices)
    memory, where = _places(packed, job.firsts) if all_packed else (job.memory, job.where)
    nowhere = job.made[0][:1].view(1, 1)  # a kernel takes an array in any case
    with on_device(job.device) as device:
        kernel = Kernel("closed", n, SIDE, job.dtype, job.many, all_packed)
        device.launch(kernel, -(-job.count // WARP), _MANY, *memory, where, job.count, *job.left)
        _finish(device, job, n, nowhere, nowhere, NO_PRICES, warm=False)
    return Solved([Results(None, None, slack) for slack in job.slack.unbind()], device.started, job.made)


def _finish(device: Device, job: Job, n: int, row_prices: Tensor, col_prices: Tensor, prices: int, warm: bool) -> None:
    """Solve the tiles that the kernel before has left over."""
    kernel = Kernel("paths", n, job.side, job.dtype, job.many)
    # As for all tiles: how many are left the device alone knows, and to ask it would be to wait for it.
    warps = -(-job.count // (WARP // lanes_per_tile(job.side)))
    arguments = (row_prices, col_prices, prices, int(warm), *job.left, job.slack)
    device.launch(kernel, warps, _FEW, *job.memory, job.where, *arguments)


class Job:
    """What the kernels of one call have in common.

    Attributes:
        memory, where: weights, masks, and the numbers of each matrix, see `code.places`.
        firsts, counts: of the tiles of each matrix; `count` of all.
        left: the list of tiles left over, in any order, and its length, 0 at first.
        slack: (matrices,) float64, 0 at first.
        made: the tensors behind these.
    """

    def __init__(self, matrices: Sequence[Tiles]) -> None:
        weight = matrices[0].weight
        self.device, self.dtype, self.side = weight.device, weight.dtype, weight.shape[-1]
        self.counts = [tiles.number for tiles in matrices]
        self.firsts = [sum(self.counts[:k]) for k in range(len(matrices))]
        self.count = sum(self.counts)
        if self.count > _MOST_TILES:
            raise InvalidProblemError(
                f"{self.count} blocks are too many for one call on a GPU; the limit is {_MOST_TILES}"
            )
        self.many = len(matrices) > 1
        self.memory, self.where = _places(matrices, self.firsts)
        # Kernels read these after they are gone here: PyTorch reuses memory in the order of the stream. One fill makes
        # both the list's length and the slacks 0.
        state = torch.zeros(1 + len(matrices), dtype=torch.float64, device=self.device)
        self.slack = state[1:]
        listed = torch.empty(self.count, dtype=torch.int32, device=self.device)
        self.left = listed, state[:1].view(torch.int32)[:1]
        self.made = [state, listed]


def _places(matrices: Sequence[Tiles], firsts: Sequence[int]) -> tuple[tuple[Tensor, Tensor], Tensor | tuple[int, ...]]:
    """The memory of weights and masks, and where each matrix lies in it."""
    memory = origin_of(matrices[0].weight), origin_of(matrices[0].mask)
    side = matrices[0].weight.shape[-1]
    rows = [numbers_of(*tiles, memory, first, first * side) for tiles, first in zip(matrices, firsts, strict=True)]
    return memory, tuple(rows[0]) if len(rows) == 1 else to_device(torch.tensor(rows, device="cpu"), memory[0].device)


def _words(masks: Tensor) -> Tensor | None:
    """Rows of four bool as one int32 each, if they lie so in memory that this is possible."""
    aligned = masks.storage_offset() % SIDE == 0 and masks.data_ptr() % SIDE == 0
    if masks.stride(-1) == 1 and aligned and all(stride % SIDE == 0 for stride in masks.stride()[:-1]):
        return masks.view(torch.int32)
    return None

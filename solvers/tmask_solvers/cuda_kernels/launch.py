"""The kernels of a pattern, compiled once, and their launches one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tmask.errors import InvalidProblemError
from tmask_solvers.cuda_kernels.closed import SIDE, make_closed
from tmask_solvers.cuda_kernels.device import Device, magnitude_of, on_device
from tmask_solvers.cuda_kernels.lines import WARP, inlined, lanes_per_tile
from tmask_solvers.cuda_kernels.paths import make_paths
from tmask_solvers.cuda_kernels.rounds import make_rounds

# What kernels write: prices where the next one needs them, column prices of all tiles, row prices too.
NO_PRICES, COL_PRICES, ALL_PRICES = 0, 1, 2

# Warps started for each multiprocessor, which holds 32 at most: four times that, so that what is done early makes room;
# but tiles left over are few, and their warps need more registers.
_MANY, _FEW = 128, 16
_MOST_TILES = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Results:
    """What comes with the masks of B tiles: row and column prices (B, m) float64 if wanted, slack () float64."""

    row_prices: Tensor | None
    col_prices: Tensor | None
    slack: Tensor


def solve_by_rounds(tiles: Tensor, n: int, masks: Tensor, prices: int) -> Results:
    """Masks of tiles (K, G, down, across, m, m), magnitudes counted, into a bool tensor of that shape."""
    count, m = _count(tiles), tiles.shape[-1]
    col_prices = torch.empty((count, m), dtype=torch.float64, device=tiles.device)
    # A kernel takes an array in any case; where it writes no row prices, any one will do.
    row_prices = torch.empty_like(col_prices) if prices == ALL_PRICES else col_prices
    with on_device(tiles.device) as device:
        job = _Job(device, tiles, n, masks)
        u, v = row_prices, col_prices
        warps = -(-count // (WARP // lanes_per_tile(m)))
        kernel = rounds_kernel(device.cuda, n, m, tiles.dtype)
        device.launch(
            _name("rounds", n, m, tiles.dtype), kernel, warps, _MANY, *job.problem, count, u, v, prices, *job.left
        )
        job.finish(u, v, prices, warm=True)
    return Results(
        row_prices if prices == ALL_PRICES else None, col_prices if prices != NO_PRICES else None, job.slack[0]
    )


def solve_closed(tiles: Tensor, n: int, masks: Tensor) -> Results:
    """The same for m = 4, of float32 or narrower, without prices."""
    count = _count(tiles)
    nowhere = torch.empty((1, SIDE), dtype=torch.float64, device=tiles.device)
    words = _words(masks)
    with on_device(tiles.device) as device:
        job = _Job(device, tiles, n, masks)
        # A row of the mask as one word is one store a thread, not four.
        kernel = closed_kernel(device.cuda, n, tiles.dtype, words is not None)
        weight, mask, *place = job.problem
        name = _name("closed", n, SIDE, tiles.dtype)
        target = mask if words is None else words
        device.launch(name, kernel, -(-count // WARP), _MANY, weight, target, *place, count, *job.left)
        job.finish(nowhere, nowhere, NO_PRICES, warm=False)
    return Results(None, None, job.slack[0])


class _Job:
    """The arguments that the kernels of one call have in common."""

    def __init__(self, device: Device, tiles: Tensor, n: int, masks: Tensor) -> None:
        self.device, self.tiles, self.n = device, tiles, n
        _, groups, down, across, _, _ = tiles.shape
        self.count = _count(tiles)
        self.problem = (tiles.detach(), masks, across, down, groups)
        self.slack = torch.zeros(1, dtype=torch.float64, device=tiles.device)
        # Kernels read these after they are gone here: PyTorch reuses memory in the order of the stream.
        listed = torch.empty(self.count, dtype=torch.int32, device=tiles.device)
        number = torch.zeros(1, dtype=torch.int32, device=tiles.device)
        self.left = (listed, number)

    def finish(self, row_prices: Tensor, col_prices: Tensor, prices: int, warm: bool) -> None:
        """Solve the tiles that the kernel before has left over."""
        m, dtype = self.tiles.shape[-1], self.tiles.dtype
        kernel = paths_kernel(self.device.cuda, self.n, m, dtype)
        arguments = (*self.problem, row_prices, col_prices, prices, int(warm), *self.left, self.slack)
        # As for all tiles: how many are left the device alone knows, and to ask it would be to wait for it.
        self.device.launch(_name("paths", self.n, m, dtype), kernel, self.count, _FEW, *arguments)


def _count(tiles: Tensor) -> int:
    count = int(np.prod(tiles.shape[:4]))
    if count > _MOST_TILES:
        raise InvalidProblemError(f"{count} blocks are too many for one call on a GPU; the limit is {_MOST_TILES}")
    return count


def _words(masks: Tensor) -> Tensor | None:
    """Rows of four bool as one int32 each, if they lie so in memory that this is possible."""
    aligned = masks.storage_offset() % SIDE == 0 and masks.data_ptr() % SIDE == 0
    if masks.stride(-1) == 1 and aligned and all(stride % SIDE == 0 for stride in masks.stride()[:-1]):
        return masks.view(torch.int32)
    return None


# `cuda` is part of the keys, so that a simulated one in tests gets kernels of its own. Launch bounds tell the compiler
# that a block is a warp, and that a thread may therefore have as many registers as it wants.
@cache
def rounds_kernel(cuda: Any, n: int, m: int, dtype: torch.dtype) -> Any:
    return cuda.jit(make_rounds(cuda, n, m, _real(dtype), inlined(cuda, magnitude_of(dtype))), launch_bounds=WARP)


@cache
def paths_kernel(cuda: Any, n: int, m: int, dtype: torch.dtype) -> Any:
    return cuda.jit(make_paths(cuda, n, m, _real(dtype), inlined(cuda, magnitude_of(dtype))), launch_bounds=WARP)


@cache
def closed_kernel(cuda: Any, n: int, dtype: torch.dtype, packed: bool) -> Any:
    return cuda.jit(make_closed(cuda, n, inlined(cuda, magnitude_of(dtype)), packed), launch_bounds=WARP)


def _real(dtype: torch.dtype) -> type[np.float32] | type[np.float64]:
    return np.float64 if dtype == torch.float64 else np.float32


def _name(kind: str, n: int, m: int, dtype: torch.dtype) -> str:
    """The name of a kernel; what else it depends on shows in the types of its arguments."""
    return f"{kind}-{n}-{m}-{str(dtype).removeprefix('torch.')}"

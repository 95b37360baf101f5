"""One matrix solved by launches that are noted, and made again for the next one that lies alike."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tmask_solvers.cuda_kernels.device import on_device
from tmask_solvers.cuda_kernels.launch import (
    COL_PRICES,
    NO_PRICES,
    SIDE,
    Results,
    Tiles,
    solve_by_rounds,
    solve_closed,
)
from tmask_solvers.cuda_kernels.repeating import Repeat, Repeats

Cut = Callable[[Tensor], Tensor]

_calls = Repeats()


def solve_matrix(weights: Tensor, masks: Tensor, n: int, m: int, prices: bool, cut: Cut) -> Results:
    """Masks of a tensor (K, G, rows, cols) with entries, and column prices where they are wanted and there are any.

    Args:
        cut: makes views (K, G, down, across, m, m) of such tensors.
    """
    # Where a mask begins decides whether its rows can be written as words.
    key = (
        *(weights.shape, weights.stride(), weights.dtype, weights.device),
        *(masks.stride(), masks.data_ptr() % SIDE, n, m, prices),
    )
    closed = m == SIDE and weights.dtype != torch.float64
    if (known := _calls.get(key)) is not None:
        made = known.make(weights.device)
        with on_device(weights.device) as device:
            if known.start(device, (weights, masks, *made)):
                return Results(None, None if closed or not prices else made[2], made[0][1])
        _calls.forget(key)  # the way below says what is wrong
    tiles = [Tiles(cut(weights), cut(masks))]
    solved = solve_closed(tiles, n) if closed else solve_by_rounds(tiles, n, COL_PRICES if prices else NO_PRICES)
    _calls.note(key, Repeat.of(solved.started, (weights, masks), solved.made[:1], solved.made[1:]))
    return solved.results[0]

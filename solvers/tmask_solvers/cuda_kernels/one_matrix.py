"""One matrix solved by launches that are noted, and made again for the next one that lies alike."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tmask_solvers.cuda_kernels.code.kernels import SIDE
from tmask_solvers.cuda_kernels.launch import Results, Tiles, gives_prices, solve_tiles
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
    if (made := _calls.again(key, (weights, masks))) is not None:
        return Results(None, made[2] if gives_prices(m, weights.dtype, prices) else None, made[0][1])
    solved = solve_tiles([Tiles(cut(weights), cut(masks))], n, prices)
    _calls.note(key, Repeat.of(solved.started, (weights, masks), solved.made[:1], solved.made[1:]))
    return solved.results[0]

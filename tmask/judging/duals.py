"""Column prices: the proofs of optimality, and how numpy finds them.

The problem of one block (score s, n kept per row and column) is a transportation problem, so linear-programming
duality holds without a gap [Hubara2021, section 3; Schrijver2003, chapter 21]. For any column prices v let a row
keep its n largest of s_ij - v_j. If every column is then kept n times too, that mask is optimal; and for any u, v

    optimum <= n * sum(u) + n * sum(v) + sum over i,j of max(0, s_ij - u_i - v_j).

Legend: B blocks of side m; scores s (B, m, m), masks (B, m, m), row prices u (B, m), column prices v (B, m).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tmask.blocks.arrays import Masks, Prices, Scores
from tmask.judging.compiled import find_compiled_kernels
from tmask.judging.counts import count_lines

Flags = npt.NDArray[np.bool_]

_EPS = float(np.finfo(np.float64).eps)

# How prices are proposed. Like solvers' own numbers (`tmask_solvers.shared.constants`), but not theirs: who judges
# solvers takes no number from them. No choice here can make a false proof, since `proves_optimal` decides on the prices
# without them; a worse one finds fewer proofs. One momentum and limit for every m, because there is no need to be fast.
_ROUNDS = 24
_MOMENTUM = 0.3
# Of the 53 bits of float64, 46 for scores leave 7 for prices that grow beyond them.
_GRID_BITS = 46


def is_regular(masks: Masks, n: int) -> Flags:
    """(B,) bool: exactly n kept in every row and column."""
    rows, cols = count_lines(masks)
    right = (rows == n) & (cols == n)
    # Nearly always all of them, and numpy is slow along short axes.
    return np.ones(len(masks), np.bool_) if right.all() else right.all(1)


def check_prices(scores: Scores, masks: Masks, v: Prices) -> tuple[npt.NDArray[np.float64], Flags]:
    """(B,) objective, and (B,) whether the prices prove the (regular) masks optimal, see `proves_optimal`."""
    if (kernels := find_compiled_kernels()) is None:
        return objectives(scores, masks), proves_optimal(scores, masks, v)
    objective, proven = np.empty(len(scores)), np.empty(len(scores), np.bool_)
    kernels.check_prices(scores, masks, v, objective, proven)
    return objective, proven


def objectives(scores: Scores, masks: Masks) -> npt.NDArray[np.float64]:
    """(B,) float64: the sum of kept scores of each block."""
    return np.asarray(np.where(masks, scores, 0).sum((1, 2), dtype=np.float64))


def proves_optimal(scores: Scores, masks: Masks, v: Prices) -> Flags:
    """(B,) bool: whether the prices prove the (regular) masks optimal; no tolerance, no rounding.

    In each row the smallest kept s - v must be no less than the largest pruned one. The differences are compared
    exactly, as pairs (rounded difference, its rounding error), which [Knuth1997, 4.2.2, theorem B] computes; pairs
    order like the real numbers, because rounding is monotone.
    """
    s = scores.astype(np.float64, copy=False)  # (B, m, m)
    price = v[:, None, :]  # (B, 1, m)
    with np.errstate(invalid="ignore", over="ignore"):  # an overflow gives NaN, which proves nothing
        high = s - price
        back = high - s
        low = (s - (high - back)) - (price + back)
        kept_high = np.where(masks, high, np.inf).min(2)  # (B, m)
        pruned_high = np.where(masks, -np.inf, high).max(2)
        kept_low = np.where(masks & (high == kept_high[:, :, None]), low, np.inf).min(2)
        pruned_low = np.where(~masks & (high == pruned_high[:, :, None]), low, -np.inf).max(2)
    ordered = (kept_high > pruned_high) | ((kept_high == pruned_high) & (kept_low >= pruned_low))
    return np.asarray(ordered.all(1))


def dual_value(scores: Scores, n: int, u: Prices, v: Prices) -> npt.NDArray[np.float64]:
    """(B,) float64: the bound of the module's formula, raised by more than its rounding error can be."""
    s = scores.astype(np.float64, copy=False)
    side = s.shape[1]
    over = np.maximum(s - u[:, :, None] - v[:, None, :], 0).sum((1, 2))
    value = n * u.sum(1) + n * v.sum(1) + over
    # Every term is rounded a few times relative to its operands, and added in a sum of m * m terms.
    size = s.sum((1, 2)) + 2 * side * (np.abs(u).sum(1) + np.abs(v).sum(1))
    return np.asarray(value + _EPS * (side * side + 8) * size)


def midpoint_prices(scores: Scores, n: int) -> tuple[Prices, Prices, Masks, Flags]:
    """Prices by alternating midpoints: u (B, m), v (B, m), the masks at v (B, m, m), and where they are optimal.

    A row's price is set half way between its n-th and (n+1)-th largest of s - v, then a column's likewise, with
    momentum, until every column counts n. Nearly all blocks without ties end so in a few rounds.

    Cost: O(B m^2) time a round and memory, at most 24 rounds.
    """
    s = scores.astype(np.float64)
    num_blocks, side = s.shape[:2]
    u = np.zeros((num_blocks, side))
    v = _midpoint(s.transpose(0, 2, 1), n)
    masks = np.zeros(s.shape, np.bool_)
    solved = np.zeros(num_blocks, np.bool_)
    last = v.copy()
    todo = np.arange(num_blocks)
    for _ in range(_ROUNDS):
        reduced = s[todo] - v[todo][:, None, :]  # (b, m, m)
        u[todo] = _midpoint(reduced, n)
        kept = reduced > u[todo][:, :, None]
        masks[todo] = kept
        done = is_regular(kept, n)
        solved[todo] = done
        todo = todo[~done]  # most are done after a few rounds, and cost nothing from then on
        if not len(todo):
            break
        target = _midpoint((s[todo] - u[todo][:, :, None]).transpose(0, 2, 1), n)
        v[todo], last[todo] = target + _MOMENTUM * (target - last[todo]), target
    # The strict comparison above was made on rounded differences; the exact one decides.
    solved[solved] = proves_optimal(s[solved], masks[solved], v[solved])
    return u, v, masks, solved


def residual_prices(scores: Scores, masks: Masks, v: Prices) -> Prices:
    """Prices that prove a given regular mask optimal, if it is.

    Bellman-Ford on the constraints u_i >= s_ik - v_k (k pruned) and v_j <= s_ij - u_i (j kept) from the given v;
    they can be met if and only if no cyclic exchange improves the mask, and then 2m rounds meet them. Done on a grid of
    2^-46 of the block's largest score, on which float64 sums are exact, so that ties come out equal.

    Args:
        v: (B, m) a start; good ones, such as midpoints, save rounds.
    Returns:
        (B, m) float64; check them with `proves_optimal`.
    Cost: O(B m^2) a round, at most 2m rounds.
    """
    s = scores.astype(np.float64, copy=False)
    side = s.shape[1]
    grid = np.exp2(np.frexp(s.max((1, 2), initial=0))[1] - float(_GRID_BITS))[:, None]  # (B, 1)
    grid = np.maximum(grid, np.finfo(np.float64).smallest_subnormal)
    v = np.round(v / grid) * grid  # a start off the grid would put all sums off it
    todo = np.arange(len(s))
    for _ in range(2 * side):
        pruned = np.where(masks[todo], -np.inf, s[todo] - v[todo][:, None, :])
        u = pruned.max(2)  # (b, m)
        limit = np.where(masks[todo], s[todo] - u[:, :, None], np.inf).min(1)  # (b, m)
        lower = np.minimum(v[todo], limit)
        moved = (lower < v[todo]).any(1)
        v[todo] = lower
        todo = todo[moved]
        if not len(todo):
            break
    return v


def _midpoint(x: npt.NDArray[np.float64], n: int) -> Prices:
    """(B, m): half way between the n-th and the (n+1)-th largest along the last axis of (B, m, m)."""
    side = x.shape[-1]
    parted = np.partition(x, (side - n - 1, side - n), axis=-1)
    return np.asarray(0.5 * parted[..., side - n - 1] + 0.5 * parted[..., side - n])

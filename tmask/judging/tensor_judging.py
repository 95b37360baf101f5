"""Judge masks on their device: sums, regularity, and proofs by column prices.

Nothing here waits for the device: results are tensors, which the caller fetches together.

Legend: scores, masks (..., m, m), of one piece of the tiles or of some blocks; column prices v (..., m).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def examine(values: Tensor, masks: Tensor, n: int, v: Tensor | None) -> Tensor:
    """Look at all entries once; scores are |values|, of any floating dtype.

    Returns:
        (5,) float64: kept scores; all scores; lines that keep more than n; blocks in which a line does not keep
        exactly n; blocks that prices do not prove at first sight, 0 without prices. The first two are not finite if a
        score is not.
    """
    import torch  # late here and below: the core is imported without it

    scores = magnitudes(values)
    kept = scores.where(masks, 0).sum(dtype=torch.float64)
    total = scores.sum(dtype=torch.float64)
    rows, cols = count_lines(masks)
    over = (rows > n).sum() + (cols > n).sum()
    irregular = (~((rows == n).all(-1) & (cols == n).all(-1))).sum()
    left = over.new_zeros(()) if v is None else unproven(scores, masks, n, v).sum()
    # Counts as float64, which is exact up to 2^53: one tensor with the sums is one transfer.
    counts = torch.stack((over, irregular, left)).to(torch.float64)
    return torch.cat((torch.stack((kept, total)), counts))


def unproven(scores: Tensor, masks: Tensor, n: int, v: Tensor) -> Tensor:
    """(...) bool: masks that prices do not prove optimal at first sight."""
    return ~(is_regular(masks, n) & clearly_optimal(scores, masks, v))


def count_lines(masks: Tensor) -> tuple[Tensor, Tensor]:
    """(..., m) entries kept in each row, and in each column."""
    import torch

    return masks.sum(-1, dtype=torch.int32), masks.sum(-2, dtype=torch.int32)


def is_regular(masks: Tensor, n: int) -> Tensor:
    """(...) bool: exactly n kept in every row and column."""
    rows, cols = count_lines(masks)
    return (rows == n).all(-1) & (cols == n).all(-1)


def magnitudes(values: Tensor) -> Tensor:
    """|values| as float32 or float64."""
    return values.abs() if values.element_size() >= 4 else values.float().abs()


def clearly_optimal(scores: Tensor, masks: Tensor, v: Tensor) -> Tensor:
    """(...) bool: in each row all kept score - v are above all pruned ones, after rounding.

    Rounding is monotone, so they are so in real numbers too (docs: exactness), and the prices, rounded to the scores'
    dtype, prove the mask, whatever they were. A tie says nothing: `proves_optimal` looks closer.
    """
    import torch

    x = scores - v.to(scores.dtype).unsqueeze(-2)
    least = x.masked_fill(~masks, torch.inf).amin(-1)
    most = x.masked_fill(masks, -torch.inf).amax(-1)
    return (least > most).all(-1)


def proves_optimal(scores: Tensor, masks: Tensor, v: Tensor) -> Tensor:
    """(...) bool: whether the prices prove the (regular) masks optimal; `proves_optimal` of duals.py, on the device."""
    import torch

    # Each difference as a pair, rounded and rounding error, compared without a tolerance [Knuth1997, 4.2.2, theorem B].
    s, price = scores.double(), v.double().unsqueeze(-2)
    high = s - price
    back = high - s
    low = (s - (high - back)) - (price + back)
    kept_high = high.masked_fill(~masks, torch.inf).amin(-1, keepdim=True)
    pruned_high = high.masked_fill(masks, -torch.inf).amax(-1, keepdim=True)
    kept_low = low.masked_fill(~masks | (high != kept_high), torch.inf).amin(-1, keepdim=True)
    pruned_low = low.masked_fill(masks | (high != pruned_high), -torch.inf).amax(-1, keepdim=True)
    ordered = (kept_high > pruned_high) | ((kept_high == pruned_high) & (kept_low >= pruned_low))
    return ordered.all(-1).all(-1)

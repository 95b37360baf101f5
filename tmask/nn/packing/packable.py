"""Which weights and masks can be packed, and what stands in the way of others, by name of the first place."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from tmask.errors import InvalidMaskError, InvalidProblemError

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# Rows are stored 32 at a time, words two at a time; each direction's rows are the other's columns.
MULTIPLE = 32


def check_packable(weight: Tensor, mask: Tensor, multiple: int = MULTIPLE, *, at_most: bool = False) -> None:
    """Return if `pack` takes this weight and mask, whose sides must be multiples of this many.

    Raises:
        InvalidProblemError, InvalidMaskError: as `pack` does.
    """
    if weight.ndim != 2:
        raise InvalidProblemError(f"the weight has {weight.ndim} axes; packing takes matrices, (out, in)")
    rows, cols = weight.shape
    if not rows or not cols or rows % multiple or cols % multiple:
        raise InvalidProblemError(
            f"the weight has shape {rows}x{cols}; packing takes both sides in multiples of {multiple} (pad it, or "
            "multiply with the masked weight)"
        )
    if weight.dtype not in DTYPES:
        raise InvalidProblemError(f"the weight has dtype {weight.dtype}; packing takes {', '.join(map(str, DTYPES))}")
    if mask.dtype != torch.bool:
        raise InvalidProblemError(f"the mask has dtype {mask.dtype}; it must be bool, True = kept")
    if mask.shape != weight.shape:
        raise InvalidProblemError(f"the mask has shape {tuple(mask.shape)}, but the weight {tuple(weight.shape)}")
    if mask.device != weight.device:
        raise InvalidProblemError(f"the mask is on {mask.device}, but the weight on {weight.device}; move it there")
    # Last: it reads the whole mask, and with a GPU waits for it.
    if not at_most:
        check_complete(mask)


def completed(mask: Tensor) -> Tensor:
    """The (rows, cols) mask with entries added, so that it keeps exactly two of every four along rows and columns.

    Where a weight is 0 it may keep fewer; kernels need two, and the zeros that fill up change no product. A complete
    mask is returned as it is.

    Raises:
        InvalidMaskError: no such mask holds this one; the text names the first group.
    """
    rows, cols = mask.shape
    tiles = mask.reshape(rows // 4, 4, cols // 4, 4).transpose(1, 2).reshape(-1, 16)  # (T, 16)
    # Of 16 entries so few are kept where a tile is short.
    short = (tiles.sum(1) < 8).nonzero()[:, 0]
    if not len(short):
        check_complete(mask)
        return mask
    full = _full_tiles(mask.device)  # (90, 16)
    tiles = tiles.clone()
    for part in torch.split(short, 1 << 16):
        lacking = tiles[part].float() @ (~full).float().T  # entries of the tile that each full one would lose
        found = lacking.min(1)
        tiles[part] = torch.where((found.values == 0)[:, None], full[found.indices], tiles[part])
    filled = tiles.reshape(rows // 4, cols // 4, 4, 4).transpose(1, 2).reshape(rows, cols)
    check_complete(filled)
    return filled


def _full_tiles(device: torch.device) -> Tensor:
    """All 4 x 4 tiles with two of four kept in each row and column, (90, 16) bool."""
    rows = [[i in pair for i in range(4)] for pair in itertools.combinations(range(4), 2)]
    tiles = torch.tensor([*itertools.product(rows, repeat=4)], device=device)  # (1296, 4, 4)
    return tiles[(tiles.sum(1) == 2).all(1)].reshape(-1, 16)


def check_complete(mask: Tensor) -> None:
    """Return if a (rows, cols) mask keeps exactly two of every four along its rows and along its columns.

    Raises:
        InvalidMaskError: it does not; the text names the first group.
    """
    rows, cols = mask.shape
    by_rows = mask.reshape(rows, cols // 4, 4).sum(-1, dtype=torch.uint8)
    by_columns = mask.reshape(rows // 4, 4, cols).sum(1, dtype=torch.uint8).t()  # (cols, rows / 4)
    # Both at once: a GPU is waited for.
    if not ((by_rows != 2).any() | (by_columns != 2).any()):
        return
    for line, other, kept in (("row", "columns", by_rows), ("column", "rows", by_columns)):
        if bad := first_true(kept != 2):
            index, group = bad
            raise InvalidMaskError(
                f"{line} {index}, {other} {4 * group} to {4 * group + 3} of the mask keeps {int(kept[bad])} of 4; 2:4 "
                "kernels need exactly 2 in every group of each row and column (solve for pattern '2:4')"
            )


def first_true(bad: Tensor) -> tuple[int, int] | None:
    """The first True of a matrix, or None."""
    if not bad.any():
        return None
    # argmax takes no bool; of equal entries it gives the first.
    row, column = divmod(int(bad.flatten().to(torch.uint8).argmax()), bad.shape[1])
    return row, column

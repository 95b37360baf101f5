"""The kept values of a weight, gathered along its rows and along its columns into memory that stays.

This is all that packing does at a step of the optimizer once the mask's metadata are there. On a GPU one Triton kernel
writes both directions, and one what of a mask it goes by (`values_kernel`), once they have been seen to write there
what torch's own operations do; these stand in wherever a kernel does not compile, or writes anything else.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tmask.nn.mask.believed import Believed
from tmask.nn.packing.code_order import SQUARE, ordered
from tmask.nn.packing.trials import random_mask

_MOST_INT32 = 2**31
_TRIAL = (80, 144)  # more than a program's square, and no multiple of it

# Along rows and along columns; and both in another order.
Codes = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]

_kernels = Believed("packed values are written by torch's own operations")


def kept_of(mask: Tensor, dtype: torch.dtype, codes: tuple[Tensor, Tensor] | None = None) -> list[Tensor]:
    """Where the kept entries of a mask lie, row by row and column by column, as `write_both` takes it on this device.

    The mask's codes for the kernel, or places for torch: two tensors that stay in memory as long as the mask.

    Args:
        codes: as `kept_codes` gives them, where they are there already.
    """
    if _kernel_writes(mask.device, dtype, dtype):
        return list(codes or kept_codes(mask))
    return list(kept_places(mask))


def write_both(weight: Tensor, kept: list[Tensor], out: Tensor, out_t: Tensor) -> list[Tensor]:
    """Write the kept entries of a contiguous weight of any dtype to two vectors of one dtype, in the memory they have.

    Args:
        kept: as `kept_of` made it of the mask.
        out, out_t: contiguous, of rows * cols / 2 each; what is longer is written at its front.
    Returns:
        What to give it for `kept` from now on: places, where the kernel has been given up.
    """
    if kept[0].dtype == torch.uint8:
        if _kernels.knows(weight.device, (out.dtype, out.dtype)):
            if not _kernel_writes(weight.device, weight.dtype, out.dtype):
                weight = weight.to(out.dtype)
            if _kernels.run(weight.device, lambda: _launch(weight, kept, out, out_t)):
                # It writes by address: untold, torch would take a pending backward pass over the new values.
                for one in (out, out_t):
                    torch.autograd.graph.increment_version(one)
                return kept
        kept = list(kept_places(_mask_of(*kept)))
    weight = weight.to(out.dtype)
    for places, one in zip(kept, (out, out_t), strict=True):
        write_kept(weight, places, one.view(-1)[: len(places)])
    return kept


def kept_places(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Where the kept entries of a mask (rows, cols) lie in a contiguous weight: row by row, and column by column.

    Two vectors of rows * cols / 2 places, int32 where that suffices: they stay in memory as long as the mask.
    """
    rows, cols = mask.shape
    dtype = torch.int32 if mask.numel() <= _MOST_INT32 else torch.int64
    by_rows = mask.reshape(-1).nonzero()[:, 0]
    transposed = mask.t().reshape(-1).nonzero()[:, 0]
    by_columns = transposed % rows * cols + transposed // rows
    return by_rows.to(dtype), by_columns.to(dtype)


def kept_codes(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The same in a byte for each group of four, first | second << 2: (rows, cols / 4), and (rows / 4, cols)."""
    return codes_in_order(mask)[0]


def codes_in_order(mask: Tensor) -> Codes:
    """`kept_codes`, and the same as metadata of both directions, where a kernel writes them on the way.

    The second is of uint8, rows * cols / 8 each, in the order of `tmask.nn.packing.code_order`; None for sides in other
    than 64s, and without a kernel.
    """
    if mask.is_contiguous() and _kernel_encodes(mask.device):
        made, launch = _encoding(mask)
        if _kernels.run(mask.device, launch):
            return made
    return (_codes(mask), _codes(mask.t()).t().contiguous()), None


def write_kept(weight: Tensor, places: Tensor, out: Tensor) -> None:
    """Write the entries at these places of a contiguous weight to a vector, in the memory that it has."""
    torch.index_select(weight.view(-1), 0, places, out=out)


def _codes(mask: Tensor) -> Tensor:
    # In bytes, and without counting: what counts has to be waited for.
    a, b, c, d = torch.unflatten(mask.view(torch.uint8), -1, (-1, 4)).unbind(-1)  # (lines, groups) each
    first = (1 - a) * (2 - b)  # 0 where the first entry is kept, else 1 or 2
    second = 3 - (1 - d) * (2 - c)
    return first | second << 2


def _encoding(mask: Tensor) -> tuple[Codes, Callable[[], None]]:
    """Memory for what `codes_in_order` gives, and the launch that writes it."""
    rows, cols = mask.shape
    in_squares = not (rows % SQUARE or cols % SQUARE)
    codes = _bytes(mask, rows, cols // 4), _bytes(mask, rows // 4, cols)
    order = _bytes(mask, in_squares * mask.numel() // 8), _bytes(mask, in_squares * mask.numel() // 8)
    return (codes, order if in_squares else None), lambda: _launch_codes(mask, *codes, *order)


def _bytes(mask: Tensor, *shape: int) -> Tensor:
    return mask.new_empty(shape, dtype=torch.uint8)


def _mask_of(codes: Tensor, codes_t: Tensor) -> Tensor:
    """The mask that has these codes; those of its rows say it all."""
    places = torch.stack((codes & 3, codes >> 2), -1).long()  # (rows, cols / 4, 2)
    groups = torch.zeros(*codes.shape, 4, dtype=torch.bool, device=codes.device)
    return groups.scatter_(-1, places, True).view(len(codes), -1)


def _kernel_encodes(device: torch.device) -> bool:
    """Whether the kernel of codes can be believed here."""
    return _kernels.takes(device, (torch.bool, torch.uint8), lambda: _encodes_all_right(device))


def _kernel_writes(device: torch.device, given: torch.dtype, wanted: torch.dtype) -> bool:
    """Whether the kernel of values can be believed here, for numbers of one dtype written as another."""
    # Of a weight that it rounds otherwise it is given the rounded one.
    return _kernels.takes(device, (given, wanted), lambda: _writes_right(device, given, wanted), told=given == wanted)


def _writes_right(device: torch.device, given: torch.dtype, wanted: torch.dtype) -> bool:
    mask = random_mask(*_TRIAL, device)
    # Numbers that rounding moves, up and down, with both zeros among them.
    weight = torch.randn(_TRIAL, generator=torch.Generator().manual_seed(0), device="cpu").to(device, given)
    weight[::7, ::5] = -0.0
    found = [torch.full((mask.numel() // 2,), 7.0, device=device, dtype=wanted) for _ in range(2)]
    _launch(weight, [_codes(mask), _codes(mask.t()).t().contiguous()], found[0], found[1])
    rounded = weight.to(wanted)
    expected = rounded[mask], rounded.t()[mask.t()]
    return all(map(torch.equal, [one.view(torch.int16) for one in found], [e.view(torch.int16) for e in expected]))


def _encodes_all_right(device: torch.device) -> bool:
    return all(_encodes_right(random_mask(*sides, device)) for sides in (_TRIAL, (2 * SQUARE, 3 * SQUARE)))


def _encodes_right(mask: Tensor) -> bool:
    (codes, order), launch = _encoding(mask)
    launch()
    by_columns = _codes(mask.t())
    if not (torch.equal(codes[0], _codes(mask)) and torch.equal(codes[1], by_columns.t())):
        return False
    return order is None or all(map(torch.equal, order, map(ordered, (codes[0], by_columns))))


def _launch(weight: Tensor, codes: list[Tensor], out: Tensor, out_t: Tensor) -> None:
    from tmask.nn.packing import values_kernel  # late: it imports Triton, which a torch without CUDA lacks

    values_kernel.write(weight, codes[0], codes[1], out, out_t)


def _launch_codes(mask: Tensor, codes: Tensor, codes_t: Tensor, order: Tensor, order_t: Tensor) -> None:
    from tmask.nn.packing import values_kernel  # late, as above

    values_kernel.encode(mask, codes, codes_t, order, order_t)

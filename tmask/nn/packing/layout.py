"""2:4 weights as sparse tensor cores read them: the kept values, and two bits for the place of each.

Pure torch, on any device. The layout is CUTLASS's, which torch's own `_sparse_semi_structured_mm` multiplies.

Layout of one direction, (rows, cols) weights. Every group of four consecutive weights of a row keeps two; `values`
holds them in the order of their columns. Their places, `first` and `second` (0..3, ascending), make the four bits
`first | second << 2`; four groups make a 16-bit word, the leftmost group in its lowest bits, so a row has cols / 16
words. The words are not stored row after row: of 32 rows, row 8 j + i stands at 4 i + j, then the words of each 2 x 2
square are transposed, and the whole goes to memory two columns of words at a time.

A transposable mask is 2:4 along its columns too, so the transposed weight packs by the same rule. The places come from
the mask, not from the weights that are nonzero: a kept weight may be 0.0 or -0.0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tmask.errors import InvalidMaskError
from tmask.nn.packing.packable import check_packable, completed, first_true

_BITS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}


@dataclass(frozen=True, slots=True)
class Packed:
    """A weight under a 2:4 transposable mask, packed along its rows and along its columns.

    Args:
        values, meta: of the weight, (rows, cols / 2) in its dtype and (rows, cols / 16) int16.
        values_t, meta_t: of the transposed weight, (cols, rows / 2) and (cols, rows / 16) int16.
    """

    values: Tensor
    meta: Tensor
    values_t: Tensor
    meta_t: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight, (rows, cols)."""
        return self.values.shape[0], 2 * self.values.shape[1]


def pack(weight: Tensor, mask: Tensor, *, at_most: bool = False) -> Packed:
    """The weight packed in both directions under exactly this mask.

    Args:
        weight: (rows, cols) float16, bfloat16 or float32, both sides multiples of 32. Only the first two have
            kernels: those for float32 want one of two, not two of four.
        mask: (rows, cols) bool, True = kept, with two kept in every four of a row and of a column.
        at_most: the mask may keep fewer, as with `keep_zeros`, where zeros can fill them up; `unpack` takes those for
            kept.
    Raises:
        InvalidProblemError: shape or dtype.
        InvalidMaskError: a group does not keep exactly two; the text names the first.
    Cost: O(rows * cols).
    """
    check_packable(weight, mask, at_most=at_most)
    if at_most and (full := completed(mask)) is not mask:
        weight, mask = torch.where(mask, weight, 0.0), full
    # Transposed, columns are rows: the same rule, and no second one to get wrong.
    return Packed(*_pack_rows(weight, mask), *_pack_rows(weight.t(), mask.t()))


def unpack(packed: Packed) -> tuple[Tensor, Tensor]:
    """The masked weight (rows, cols), 0.0 where nothing is kept, and its mask; the inverse of `pack`, bit for bit.

    Raises:
        InvalidMaskError: metadata that `pack` cannot have written, or directions that do not agree.
    """
    weight, mask = unpack_rows(packed.values, packed.meta)
    weight_t, mask_t = unpack_rows(packed.values_t, packed.meta_t)
    if not torch.equal(mask, mask_t.t()):
        raise InvalidMaskError("the packed weight and its packed transpose keep different weights; pack it anew")
    if not torch.equal(bits(weight), bits(weight_t.t())):
        raise InvalidMaskError("the packed weight and its packed transpose hold different values; pack it anew")
    return weight, mask


def unpack_rows(values: Tensor, meta: Tensor) -> tuple[Tensor, Tensor]:
    """One direction alone: (rows, cols / 2) values and (rows, cols / 16) metadata to (rows, cols) weight and mask.

    Raises:
        InvalidMaskError: metadata whose two places of a group are not in ascending order.
    """
    rows, cols = values.shape[0], 2 * values.shape[1]
    words = _unordered(meta).to(torch.int32)  # (rows, cols / 16)
    nibbles = words[:, :, None] >> torch.arange(0, 16, 4, device=meta.device)  # (rows, cols / 16, 4)
    places = torch.stack((nibbles & 3, nibbles >> 2 & 3), -1).view(rows, cols // 4, 2).long()
    if bad := first_true(places[..., 0] >= places[..., 1]):
        row, group = bad
        raise InvalidMaskError(
            f"metadata of row {row}, columns {4 * group} to {4 * group + 3} is damaged; pack it anew"
        )
    weight = values.new_zeros(rows, cols // 4, 4).scatter_(-1, places, values.view(rows, cols // 4, 2))
    mask = torch.zeros_like(weight, dtype=torch.bool).scatter_(-1, places, True)
    return weight.view(rows, cols), mask.view(rows, cols)


def bits(weight: Tensor) -> Tensor:
    """The bits as integers, so that -0.0 and NaN compare as what they are."""
    return weight.contiguous().view(_BITS[weight.dtype])


def _pack_rows(weight: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    rows, cols = weight.shape
    groups = weight.reshape(rows, cols // 4, 4)
    places = mask.reshape(-1, 4).nonzero()[:, 1].view(rows, cols // 4, 2)  # ascending, as nonzero goes
    values = groups.gather(-1, places).view(rows, cols // 2)
    nibbles = (places[..., 0] | places[..., 1] << 2).view(rows, cols // 16, 4)
    words = (nibbles << torch.arange(0, 16, 4, device=weight.device)).sum(-1)
    words = words - (words >> 15 << 16)  # the same 16 bits as a signed number, which alone int16 can hold
    return values, _ordered(words.to(torch.int16))


def _ordered(words: Tensor) -> Tensor:
    """Words of rows, (rows, cols / 16), in the order of memory, under the same shape."""
    rows, columns = words.shape
    # row = 32 g + 16 h + 8 l + i and column = 2 c + r stand at [c][32 g + 4 i + 2 h + r][l]
    split = words.view(rows // 32, 2, 2, 8, columns // 2, 2)  # (g, h, l, i, c, r)
    return split.permute(4, 0, 3, 1, 5, 2).reshape(rows, columns)  # (c, g, i, h, r, l)


def _unordered(meta: Tensor) -> Tensor:
    rows, columns = meta.shape
    split = meta.reshape(columns // 2, rows // 32, 8, 2, 2, 2)  # (c, g, i, h, r, l)
    return split.permute(1, 3, 5, 2, 0, 4).reshape(rows, columns)  # (g, h, l, i, c, r)

"""Packing: round trips bit for bit, in the layout of the kernels, and never with another mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)
from torch.utils._python_dispatch import TorchDispatchMode

import tmask
from tests.nn.two_four import BLOCKS, random_mask
from tmask.errors import InvalidMaskError, InvalidProblemError
from tmask.nn.packing.layout import Packed, bits, pack, unpack, unpack_rows
from tmask.nn.packing.packable import DTYPES, check_complete

SPECIAL = (0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-7, 1.0)


@st.composite
def problems(draw):
    """A weight with zeros of both signs, NaN and infinities among its values, and a mask."""
    rows, cols = (32 * draw(st.integers(1, 3)) for _ in range(2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    weight = torch.randn(rows, cols, generator=generator)
    special = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), (rows, cols), generator=generator)]
    weight = torch.where(
        torch.rand(rows, cols, generator=generator) < draw(st.sampled_from((0, 0.3, 1))), special, weight
    )
    return weight.to(draw(st.sampled_from(DTYPES))), random_mask(rows, cols, draw(st.integers(0, 2**32 - 1)))


def test_a_complete_mask_is_waited_for_once_and_counted_in_bytes():
    """At each renewal every packed layer is looked at so."""
    seen = []

    class Called(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                seen.append((func.overloadpacket.__name__, result.element_size()))
            else:
                seen.append((func.overloadpacket.__name__, 0))
            return result

    mask = random_mask(64, 96)
    with Called():
        check_complete(mask)
    names = [name for name, _ in seen]
    assert names.count("_local_scalar_dense") == 1
    assert "clone" not in names
    assert max(size for _, size in seen) == 1


@settings(max_examples=60)
@given(problems())
def test_round_trip_bit_for_bit(problem):
    weight, mask = problem
    before = weight.clone(), mask.clone()
    packed = pack(weight, mask)
    unpacked, unpacked_mask = unpack(packed)
    assert torch.equal(unpacked_mask, mask)
    assert torch.equal(bits(unpacked), bits(torch.where(mask, weight, 0)))
    assert packed.shape == tuple(weight.shape)
    assert torch.equal(bits(weight), bits(before[0]))
    assert torch.equal(mask, before[1])


@settings(max_examples=40)
@given(problems())
def test_both_directions_are_in_torchs_layout(problem):
    weight, mask = problem
    if weight.dtype == torch.float32:
        weight = weight.half()  # torch's float32 is 1:2
    weight = torch.where(weight == 0, 1, weight)  # torch's converter takes the places from what is nonzero
    packed = pack(weight, mask)
    masked = torch.where(mask, weight, 0)
    for values, meta, dense in (
        (packed.values, packed.meta, masked),
        (packed.values_t, packed.meta_t, masked.t().contiguous()),
    ):
        expected = sparse_semi_structured_from_dense_cutlass(dense)
        assert torch.equal(bits(values), bits(expected[0]))
        assert torch.equal(meta, expected[1])
        assert torch.equal(bits(sparse_semi_structured_to_dense_cutlass(values, meta)), bits(dense))


def test_every_block_of_2_4():
    mask = BLOCKS.repeat(16, 1, 1)[: 90 * 16 // 8 * 8].view(-1, 8, 4, 4).permute(0, 2, 1, 3).reshape(-1, 32)
    mask = mask[: len(mask) // 32 * 32]
    weight = torch.arange(1, mask.numel() + 1, dtype=torch.float32).view(mask.shape)
    unpacked, unpacked_mask = unpack(pack(weight, mask))
    assert torch.equal(unpacked_mask, mask)
    assert torch.equal(unpacked, weight * mask)


def test_a_solved_mask_of_a_sliced_weight():
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))[:, ::2].t()[
        :32
    ]  # no layout that packing likes
    mask = tmask.solve(weight, "2:4").mask
    assert torch.equal(unpack(pack(weight, mask))[0], torch.where(mask, weight, 0))


@settings(max_examples=60)
@given(st.integers(0, 63), st.integers(0, 95), st.integers(0, 99))
def test_one_wrong_bit_is_refused_and_named(row, column, seed):
    mask = random_mask(64, 96, seed)
    mask[row, column] ^= True
    first = column // 4 * 4
    kept = 3 if mask[row, column] else 1
    expected = rf"row {row}, columns {first} to {first + 3} of the mask keeps {kept} of 4"
    with pytest.raises(InvalidMaskError, match=expected):
        pack(torch.ones(64, 96), mask)


def test_a_mask_that_is_2_4_along_rows_alone_is_refused():
    mask = torch.tensor([True, True, False, False]).repeat(64, 16)
    with pytest.raises(InvalidMaskError, match="column 0, rows 0 to 3 of the mask keeps 4 of 4"):
        pack(torch.ones(64, 64), mask)


def test_the_first_offending_group_is_the_one_named():
    mask = random_mask(64, 64)
    mask[40, 7] ^= True
    mask[33, 60] ^= True
    with pytest.raises(InvalidMaskError, match="row 33, columns 60 to 63"):
        pack(torch.ones(64, 64), mask)


@pytest.mark.parametrize(
    ("weight", "mask", "text"),
    [
        (torch.ones(64), torch.ones(64, dtype=torch.bool), "1 axes"),
        (torch.ones(32, 32, 3), torch.ones(32, 32, 3, dtype=torch.bool), "3 axes"),
        (torch.ones(33, 32), torch.ones(33, 32, dtype=torch.bool), "33x32.*multiples of 32"),
        (torch.ones(32, 16), random_mask(32, 16), "32x16.*multiples of 32"),
        (torch.ones(0, 32), random_mask(0, 32), "0x32"),
        (torch.ones(32, 32, dtype=torch.float64), random_mask(32, 32), "float64"),
        (torch.ones(32, 32, dtype=torch.int8), random_mask(32, 32), "int8"),
        (torch.ones(32, 32), random_mask(32, 32).float(), "must be bool"),
        (torch.ones(32, 32), random_mask(32, 64), r"mask has shape \(32, 64\), but the weight \(32, 32\)"),
        (torch.ones(32, 32, device="meta"), random_mask(32, 32), "mask is on cpu, but the weight on meta"),
    ],
)
def test_what_cannot_be_packed_is_refused(weight, mask, text):
    with pytest.raises(InvalidProblemError, match=text):
        pack(weight, mask)


def test_damage_is_found():
    good = pack(torch.randn(64, 64, generator=torch.Generator().manual_seed(1)), random_mask(64, 64))
    meta = good.meta.clone()
    meta[0, 0] = 0  # both places of a group are 0
    with pytest.raises(InvalidMaskError, match="row 0, columns 0 to 3 is damaged"):
        unpack_rows(good.values, meta)
    other = pack(torch.ones(64, 64), random_mask(64, 64, seed=1))
    with pytest.raises(InvalidMaskError, match="keep different weights"):
        unpack(Packed(good.values, good.meta, other.values_t, other.meta_t))
    with pytest.raises(InvalidMaskError, match="hold different values"):
        unpack(Packed(-good.values, good.meta, good.values_t, good.meta_t))


def test_there_are_ninety():
    assert len(BLOCKS) == 90
    mask = random_mask(8, 12)
    assert mask.unflatten(1, (-1, 4)).sum(-1).eq(2).all()
    assert mask.t().unflatten(1, (-1, 4)).sum(-1).eq(2).all()


@settings(max_examples=40)
@given(st.integers(0, 99), st.sampled_from([0.1, 0.5, 1.0]))
def test_a_mask_that_keeps_fewer_is_filled_up_with_zeros(seed, dropped):
    full = random_mask(64, 96, seed)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(64, 96, generator=generator)
    mask = full & (torch.rand(64, 96, generator=generator) >= dropped)
    unpacked, filled = unpack(pack(weight, mask, at_most=True))
    assert torch.equal(unpacked, torch.where(mask, weight, 0))
    assert not (mask & ~filled).any()
    tmask.check_mask(filled, "2:4")
    assert torch.equal(unpack(pack(weight, full, at_most=True))[1], full)


def test_what_no_zeros_can_fill_up_is_refused():
    mask = random_mask(32, 32)
    tile = torch.ones(4, 4, dtype=torch.bool)
    tile[0, 1:] = tile[1:, 0] = False  # one entry alone in its row and column
    tile[1:, 1:] = ~torch.eye(3, dtype=torch.bool)
    mask[:4, :4] = tile
    with pytest.raises(InvalidMaskError, match="row 0, columns 0 to 3 of the mask keeps 1 of 4"):
        pack(torch.ones(32, 32), mask, at_most=True)
    mask[0] = True
    with pytest.raises(InvalidMaskError, match="row 0, columns 0 to 3 of the mask keeps 4 of 4"):
        pack(torch.ones(32, 32), mask, at_most=True)

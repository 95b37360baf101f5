"""The private kernels of both routes on a CPU: their arguments checked as strictly as on a GPU, their layouts kept.

Values and metadata go through torch's own converters, so that nothing here shares code with what is tested. The order
of ties and the padding of results are free on a GPU, and unfriendly here.
"""

from __future__ import annotations

import contextlib

import torch
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

HALVES = (torch.float16, torch.bfloat16)


def _greedy(weight):
    """(rows, cols) bool: of each 4 x 4 tile the largest values, two a row and a column at most."""
    rows, cols = weight.shape
    tiles = weight.unfold(0, 4, 4).unfold(1, 4, 4).reshape(-1, 16).float()
    kept = torch.zeros(len(tiles), 4, 4, dtype=torch.bool)
    every = torch.arange(len(tiles))
    for place in tiles.flip(1).argsort(dim=1, descending=True, stable=True).sub(15).neg().unbind(1):  # late ones first
        row, col = place // 4, place % 4
        kept[every, row, col] = (kept[every, row].sum(1) < 2) & (kept[every, :, col].sum(1) < 2)
    return kept.view(rows // 4, cols // 4, 4, 4).transpose(1, 2).reshape(rows, cols)


def _bitmask(mask):
    quarters = mask.unfold(0, 8, 8).unfold(1, 8, 8).unfold(2, 4, 4).unfold(3, 4, 4)
    octets = quarters.reshape(mask.shape[0] // 8, mask.shape[1] // 8, 8, 8)
    return (octets.int() @ (2 ** torch.arange(8, dtype=torch.int32))).to(torch.uint8)


def _from_bitmask(bitmask):
    rows, cols = 8 * bitmask.shape[0], 8 * bitmask.shape[1]
    octets = (bitmask[..., None].int() >> torch.arange(8)) & 1
    quarters = octets.bool().view(rows // 8, cols // 8, 2, 2, 4, 4)
    return quarters.permute(0, 2, 4, 1, 3, 5).reshape(rows, cols)


def _meta(mask):
    """(rows, 2, cols / 32) int16 with the strides that the kernel gives it."""
    rows, cols = mask.shape
    _, meta = sparse_semi_structured_from_dense_cutlass(mask.half())
    return meta.reshape(cols // 32, rows, 2).permute(1, 2, 0)


def tile(weight, algorithm="", use_cutlass=True):
    assert weight.dtype in HALVES
    assert weight.stride(1) == 1
    assert weight.shape[1] % 32 == 0
    assert algorithm == "largest_values_greedy"
    mask = _greedy(weight)
    if not use_cutlass:
        assert weight.shape[0] % 128 == weight.shape[1] % 128 == 0
        kept = torch.where(mask, weight, 0)
        both = [compress(one.contiguous()).flatten() for one in (kept, kept.t())]
        return both[0], both[0][weight.numel() // 2 :], both[1], both[1][weight.numel() // 2 :], _bitmask(mask)
    empty = weight.new_empty(0)
    return empty, _meta(mask), empty.clone(), _meta(mask.t().contiguous()), _bitmask(mask)


def apply(weight, bitmask):
    rows, cols = weight.shape
    assert weight.dtype in HALVES
    assert weight.is_contiguous()
    assert bitmask.dtype == torch.uint8
    assert bitmask.shape == (rows // 8, cols // 8, 8)
    assert rows % 64 == cols % 64 == 0
    mask = _from_bitmask(bitmask)
    return weight[mask].view(rows, cols // 2), weight.t()[mask.t()].view(cols, rows // 2)


def mm(values, meta, dense, *, out_dtype=None):
    assert values.dtype == dense.dtype
    assert values.shape[1] == dense.shape[0] // 2
    assert dense.stride(0) == 1 <= dense.stride(1)
    assert dense.shape[1] % 8 == 0
    assert meta.dtype == torch.int16
    rows = len(values)
    # The kernel sees the memory alone, whatever shape and strides say.
    memory = torch.as_strided(meta, (meta.numel(),), (1,)).reshape(rows, -1)
    weight = sparse_semi_structured_to_dense_cutlass(values, memory)
    return (weight.float() @ dense.float()).to(dense.dtype)


def addmm(bias, values, meta, dense, *, alpha=1, beta=1, out_dtype=None):
    assert bias.dtype == dense.dtype
    assert bias.shape == (len(values),)
    product = mm(values, meta, dense).float()
    return (product + bias.float()[:, None]).to(dense.dtype)


def _order(rows, cols):
    """Of each place in the metadata, the group (of rows * cols / 4) whose four bits lie there, as on an H200."""
    if rows % 64 or cols % 32:
        return torch.arange(rows * cols // 4)  # row by row; nobody has looked
    place = torch.arange(rows * cols // 4)
    square, within = place // 512, place % 512
    bit = [within >> k & 1 for k in range(9)]
    row = 64 * (square // (cols // 32)) + bit[4] + 2 * bit[5] + 4 * bit[6] + 8 * bit[0] + 16 * bit[7] + 32 * bit[8]
    group = 8 * (square % (cols // 32)) + bit[2] + 2 * bit[3] + 4 * bit[1]
    return row * (cols // 4) + group


def compress(weight):
    rows, cols = weight.shape
    assert weight.dtype in HALVES
    assert weight.is_contiguous()
    assert rows % 16 == cols % 16 == 0
    groups = weight.view(torch.int16).view(-1, 4) != 0  # -0.0 takes a place
    assert groups.sum(1).max() <= 2, "more than two of four"
    places = groups.int().argsort(dim=1, descending=True, stable=True)[:, :2].sort(1).values
    nibbles = (places[:, 0] | places[:, 1] << 2)[_order(rows, cols)].view(-1, 4)
    words = (nibbles << torch.arange(0, 16, 4)).sum(1)
    words = torch.where(words >= 2**15, words - 2**16, words).to(torch.int16)
    values = weight.view(-1, 4).gather(1, places).flatten()
    return torch.cat((values, words.view(weight.dtype))).view(rows, -1)


def sparse_mm(
    compressed,
    dense,
    bias=None,
    alpha=None,
    out_dtype=None,
    transpose_result=False,
    alg_id=0,
    split_k=1,
    split_k_mode=-1,
):
    cols, count = dense.shape
    rows = compressed.numel() * 16 // 9 // cols
    assert compressed.dtype == dense.dtype
    # By rows if it is contiguous; whatever else it is, it is taken for its transpose.
    assert dense.is_contiguous() or dense.t().is_contiguous()
    assert count % 8 == 0
    assert 0 <= alg_id < 10
    flat = compressed.flatten()
    words = flat[rows * cols // 2 :].view(torch.int16).int()
    order = _order(rows, cols)
    nibbles = torch.empty_like(order)
    nibbles[order] = (words[:, None] >> torch.arange(0, 16, 4)).flatten().long()
    places = torch.stack((nibbles & 3, nibbles >> 2 & 3), 1).long()
    groups = dense.new_zeros(rows * cols // 4, 4).scatter_(1, places, flat[: rows * cols // 2].view(-1, 2))
    result = groups.view(rows, cols).float() @ dense.float()
    if bias is not None:
        assert bias.dtype == dense.dtype
        result += bias.float()[:, None]
    result = result.to(dense.dtype)
    return result.t().contiguous() if transpose_result else result


def search(compressed, dense, bias=None, alpha=None, out_dtype=None, transpose_result=False):
    sparse_mm(compressed, dense, bias=bias, transpose_result=transpose_result)  # for its checks
    return 3


@contextlib.contextmanager
def emulated():
    """Within it, torch's private operators run on the CPU; torch checks calls against its own schemas."""
    library = torch.library.Library("aten", "IMPL")
    try:
        for name, kernel in {
            "_sparse_semi_structured_tile": tile,
            "_sparse_semi_structured_apply": apply,
            "_sparse_semi_structured_mm": mm,
            "_sparse_semi_structured_addmm": addmm,
            "_cslt_compress": compress,
            "_cslt_sparse_mm": sparse_mm,
            "_cslt_sparse_mm_search": search,
        }.items():
            library.impl(name, kernel, "CPU")
        yield
    finally:
        library._destroy()

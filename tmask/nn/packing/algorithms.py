"""Which of cuSPARSELt's algorithms multiplies: the one that its own search finds fastest, once it was seen to be right.

Some algorithms have given wrong results [pytorch#155333]. One is believed for a shape and a count of tokens after a
product of whole numbers, small enough that no dtype rounds them in any order: it must equal the dense one in every bit.
A search takes up to 2 s, so that it is made for a few counts of tokens alone, and kept on disk.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import astuple, dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tmask.nn.mask.eager import is_captured
from tmask.nn.packing import remembered
from tmask.nn.packing.trials import random_mask

log = logging.getLogger("tmask")

DEFAULT = 0
_LEAST = 1024  # tokens; smaller products take less time than a call does
_MOST = 4  # counts of tokens to search for, of one shape: batches that never are of one size are not worth it
_DEVICES = ("cuda",)


@dataclass(frozen=True, slots=True)
class SparseProduct:
    """What the choice depends on: a packed (rows, cols) matrix times so many tokens.

    Args:
        transposed: whether the library transposes the result as it writes.
        by_columns: whether the tokens lie in memory column by column.
    """

    rows: int
    cols: int
    tokens: int
    dtype: torch.dtype
    transposed: bool
    bias: bool
    by_columns: bool = False


_chosen: dict[tuple[torch.device, SparseProduct], int] = {}
_allowed = True


@contextlib.contextmanager
def default_alone() -> Iterator[None]:
    """Within it nothing is searched for, as in trials of products that no layer will make."""
    global _allowed
    before, _allowed = _allowed, False
    try:
        yield
    finally:
        _allowed = before


def algorithm(product: SparseProduct, device: torch.device) -> int:
    """The algorithm's number for a product; the default one where none was, or can be, searched for."""
    key = device, product
    if key in _chosen:
        return _chosen[key]
    if not _allowed or device.type not in _DEVICES or product.tokens < _LEAST or _enough(product, device):
        return DEFAULT
    if is_captured(device):
        return DEFAULT  # a search measures, and waits for the device
    name = remembered.key_of("algorithm", device, *astuple(product))
    known = remembered.recall(name, device)
    if type(known) is int and known >= 0:  # True is an int as well
        _chosen[key] = known
    elif (found := _search(product, device)) is None:
        _chosen[key] = DEFAULT
    else:
        _chosen[key] = found
        remembered.keep(name, found, device)
    return _chosen[key]


def _enough(product: SparseProduct, device: torch.device) -> bool:
    alike = [
        other.tokens
        for where, other in _chosen
        if (where, other.rows, other.cols, other.dtype) == (device, product.rows, product.cols, product.dtype)
    ]
    return product.tokens not in alike and len(set(alike)) >= _MOST


def _search(product: SparseProduct, device: torch.device) -> int | None:
    """The fastest algorithm if it is right, the default one if not, None where the search itself failed."""
    what = f"{product.rows}x{product.cols}, {product.tokens} tokens, {product.dtype} on {device}"
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            found, right = _searched(product, device)
    # Memory that does not suffice, whatever a private operator raises, or that there is none any more.
    except (RuntimeError, AttributeError) as error:
        log.warning("no algorithm was searched for %s: %s", what, " ".join(str(error).split())[:300])
        return None
    if not right:
        log.warning("cuSPARSELt's algorithm %d multiplies wrong for %s; the default one is taken", found, what)
        return DEFAULT
    log.info("cuSPARSELt's algorithm %d for %s", found, what)
    return found


def _searched(product: SparseProduct, device: torch.device) -> tuple[int, bool]:
    weight, tokens, bias = _whole_numbers(product, device)
    compressed, dense = torch._cslt_compress(weight), tokens.t()
    dense = dense.contiguous() if product.by_columns else dense
    bias = bias if product.bias else None
    found = int(torch._cslt_sparse_mm_search(compressed, dense, bias=bias, transpose_result=product.transposed))
    result = torch._cslt_sparse_mm(compressed, dense, bias=bias, transpose_result=product.transposed, alg_id=found)
    result = result if product.transposed else result.t()
    return found, torch.equal(result, functional.linear(tokens, weight, bias))


def _whole_numbers(product: SparseProduct, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """Weight, tokens and bias of -1, 0 and 1; sums stay far below 256, up to which bfloat16 has every number."""
    generator = torch.Generator(device).manual_seed(0)

    def signs(*shape: int) -> Tensor:
        return torch.randint(2, shape, generator=generator, device=device, dtype=torch.int8).mul_(2).sub_(1)

    mask = random_mask(product.rows, product.cols, device)
    weight = torch.where(mask, signs(product.rows, product.cols), 0).to(product.dtype)
    # Some 400 terms of a sum at most: 6 times their spread of 20 is half of what there is room for.
    share = min(1.0, 800 / product.cols)
    drawn = torch.rand(product.tokens, product.cols, generator=generator, device=device) < share
    tokens = torch.where(drawn, signs(product.tokens, product.cols), 0).to(product.dtype)
    return weight, tokens, signs(product.rows).to(product.dtype)

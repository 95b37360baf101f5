"""A mask applied to a weight: bit for bit what `torch.where` gives, however torch is asked."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from tmask.nn.mask.gradient import StraightThrough, apply_mask

TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
HARD = (float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1e-45, -1.5)


def views(weight):
    """The same numbers, and parts of them, in other orders in memory."""
    return weight, weight.mT, weight[1:, ::2], weight.permute(2, 0, 1), weight[..., :0]


def same_bits(ours, theirs):
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert ours.contiguous().view(torch.uint8).equal(theirs.contiguous().view(torch.uint8))


@given(st.integers(0, 2**32), st.sampled_from(TYPES))
def test_it_is_where_bit_for_bit(seed, dtype):
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(3, 6, 4, generator=rng)
    hard = torch.randint(len(HARD) * 2, values.shape, generator=rng)
    for number, value in enumerate(HARD):
        values[hard == number] = value
    for weight in views(values.to(dtype)):
        mask = torch.rand(weight.shape, generator=rng) < 0.5
        same_bits(apply_mask(weight, mask), torch.where(mask, weight, 0.0))


def test_it_can_be_differentiated_compiled_and_mapped():
    weight, mask = torch.randn(4, 6), torch.rand(4, 6) < 0.5
    expected = torch.where(mask, weight, 0.0)
    leaf = weight.clone().requires_grad_()
    apply_mask(leaf, mask).sum().backward()
    assert leaf.grad.equal(mask.float())
    assert torch.vmap(apply_mask)(weight, mask).equal(expected)
    assert torch.func.vjp(lambda w: apply_mask(w, mask), weight)[1](torch.ones(4, 6))[0].equal(mask.float())
    assert torch.compile(apply_mask, backend="aot_eager", fullgraph=True)(weight, mask).equal(expected)
    assert torch.jit.trace(apply_mask, (weight, mask))(weight, mask).equal(expected)


@pytest.mark.parametrize("dtype", TYPES)
def test_where_is_not_asked_on_a_cpu(monkeypatch, dtype):
    """It is many times slower there."""
    monkeypatch.delattr(torch, "where")
    weight = torch.randn(4, 6).to(dtype).requires_grad_()
    StraightThrough.apply(weight, torch.rand(4, 6) < 0.5).sum().backward()
    assert weight.grad.equal(torch.ones(4, 6, dtype=dtype))

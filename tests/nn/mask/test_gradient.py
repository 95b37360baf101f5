"""A mask applied to a weight: bit for bit what `torch.where` gives, however torch is asked."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from tmask.nn import Periodic, sparsify
from tmask.nn.mask.gradient import apply_mask

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
    leaf = weight.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: apply_mask(w, mask), leaf, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda w: apply_mask(w, mask) ** 2, leaf)
    assert torch.vmap(apply_mask)(weight, mask).equal(expected)
    assert torch.func.vjp(lambda w: apply_mask(w, mask), weight)[1](torch.ones(4, 6))[0].equal(mask.float())
    assert torch.compile(apply_mask, backend="aot_eager", fullgraph=True)(weight, mask).equal(expected)
    assert torch.jit.trace(apply_mask, (weight, mask))(weight, mask).equal(expected)


@pytest.mark.parametrize("gradient", ["straight-through", "masked"])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_masked_layer_does_without_where_on_a_cpu(monkeypatch, dtype, gradient):
    """It is many times slower there."""
    layer = torch.nn.Linear(8, 4, bias=False, dtype=dtype)
    sparsify(layer, "2:4", schedule=Periodic(gradient=gradient))
    monkeypatch.delattr(torch, "where")
    layer(torch.ones(1, 8, dtype=dtype)).sum().backward()
    kept = layer.parametrizations.weight[0].mask
    grad = layer.parametrizations.weight.original.grad
    assert grad.equal(kept.to(dtype) if gradient == "masked" else torch.ones(4, 8, dtype=dtype))

"""A mask applied to a weight: bit for bit what `torch.where` gives, however torch is asked and whatever writes it."""

from __future__ import annotations

import logging

import hypothesis.strategies as st
import pytest
import torch
import torch.fx.experimental.proxy_tensor
from hypothesis import given

from tests.nn.triton_interpreter import run_interpreted
from tmask.nn import Periodic, sparsify
from tmask.nn.mask import masking
from tmask.nn.mask.believed import Believed
from tmask.nn.mask.masking import apply_mask

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


@pytest.fixture
def kernel(monkeypatch):
    """A stand-in for the kernel, which weights on the CPU then take, however small; its launches are counted."""
    calls = []

    def launch(weight, mask, masked):
        assert weight.is_contiguous()
        assert mask.is_contiguous()
        assert not weight.dtype.is_floating_point
        calls.append(weight.shape)
        masked.copy_(torch.where(mask, weight, 0))

    monkeypatch.setattr(masking, "_kernels", Believed("masks are applied by torch", ("cpu",), large=0))
    monkeypatch.setattr(masking, "_launch", launch)
    return calls


@pytest.mark.parametrize("dtype", TYPES)
def test_by_a_kernel_it_is_where_too_and_differentiable(kernel, dtype):
    weight, mask = torch.randn(6, 8).to(dtype).requires_grad_(), torch.rand(6, 8) < 0.5
    masked = apply_mask(weight, mask)
    same_bits(masked.detach(), torch.where(mask, weight.detach(), 0.0))
    masked.backward(torch.ones_like(masked))
    assert weight.grad.equal(mask.to(dtype))
    assert kernel == [(1000,), (6, 8), (6, 8)], "a trial, forward, and backward"


def test_what_lies_with_gaps_is_left_to_torch(kernel):
    weight, mask = torch.randn(8, 6), torch.rand(6, 8) < 0.5
    same_bits(apply_mask(weight.t(), mask), torch.where(mask, weight.t(), 0.0))
    same_bits(apply_mask(weight, mask.t()), torch.where(mask.t(), weight, 0.0))
    same_bits(apply_mask(weight, mask.t()[:, :1]), torch.where(mask.t()[:, :1], weight, 0.0))
    assert not kernel


def test_batches_of_gradients_pass(kernel):
    weight, mask = torch.randn(4, 6, requires_grad=True), torch.rand(4, 6) < 0.5
    batch = torch.randn(3, 4, 6)
    (grads,) = torch.autograd.grad(apply_mask(weight, mask), weight, batch, is_grads_batched=True)
    assert torch.equal(grads, torch.where(mask, batch, 0.0))


def test_a_trace_holds_the_mask(kernel):
    """The launch of a kernel of our own is no operation that a trace could record."""
    weight, mask = torch.randn(4, 6), torch.rand(4, 6) < 0.5
    traced = torch.fx.experimental.proxy_tensor.make_fx(lambda w, k: apply_mask(w, k) * 2)(weight, mask)
    other = torch.randn(4, 6)
    assert torch.equal(traced(other, mask), 2 * torch.where(mask, other, 0.0))
    assert not kernel


def test_what_begins_at_an_odd_address_is_left_to_torch(kernel):
    """Triton would compile for it anew, perhaps in a capture."""
    weight, mask = torch.randn(4, 6), torch.rand(4, 6) < 0.5
    for odd in (torch.randn(25)[1:].view(4, 6), weight):
        for kept in ((torch.rand(25) < 0.5)[1:].view(4, 6), mask):
            before = len(kernel)
            same_bits(apply_mask(odd, kept), torch.where(kept, odd, 0.0))
            assert (len(kernel) > before) == (odd is weight and kept is mask)


@pytest.mark.parametrize("wrong", ["other values", "an error"])
def test_a_kernel_that_is_wrong_is_not_taken_and_told_once(kernel, monkeypatch, caplog, wrong):
    def launch(weight, mask, masked):
        if wrong == "an error":
            raise RuntimeError("no compiler")
        masked.fill_(1)

    monkeypatch.setattr(masking, "_launch", launch)
    weight, mask = torch.randn(6, 8), torch.rand(6, 8) < 0.5
    with caplog.at_level(logging.WARNING, "tmask"):
        for _ in range(3):
            same_bits(apply_mask(weight, mask), torch.where(mask, weight, 0.0))
    assert len(caplog.records) == 1
    assert ("no compiler" if wrong == "an error" else "other values") in caplog.text


def test_a_kernel_that_fails_later_is_replaced_by_torch(kernel, monkeypatch, caplog):
    weight, mask = torch.randn(6, 8), torch.rand(6, 8) < 0.5
    apply_mask(weight, mask)

    def fail(*_):
        raise RuntimeError("launch failure")

    monkeypatch.setattr(masking, "_launch", fail)
    with caplog.at_level(logging.WARNING, "tmask"):
        for _ in range(2):
            same_bits(apply_mask(weight, mask), torch.where(mask, weight, 0.0))
    assert caplog.text.count("launch failure") == 1


INTERPRETED = """
import torch
from tmask.nn.mask import masking_kernel
for dtype in (torch.int16, torch.int32, torch.int64):
    weight, mask = torch.randint(-9, 9, (50, 83), dtype=dtype), torch.rand(50, 83) < 0.5
    masked = torch.full_like(weight, 7)
    masking_kernel.keep(weight, mask, masked)
    assert torch.equal(masked, torch.where(mask, weight, 0)), dtype
"""


def test_the_kernel_in_tritons_interpreter():
    run_interpreted(INTERPRETED)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", TYPES)
def test_on_cuda(dtype):
    weight = torch.randn(2048, 2049, device="cuda").to(dtype)
    mask = torch.rand(weight.shape, device="cuda") < 0.5
    same_bits(apply_mask(weight, mask), torch.where(mask, weight, 0.0))
    assert masking._kernels.knows(weight.device, dtype), "the kernel was not believed"

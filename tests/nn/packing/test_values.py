"""Kept values, both directions in one call: by torch's operations, and by the kernel in Triton's interpreter."""

from __future__ import annotations

import logging
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.nn.linears import masked_linear, master_of
from tests.nn.triton_interpreter import run_interpreted
from tests.nn.two_four import random_mask
from tmask.nn.mask.believed import Believed
from tmask.nn.packing import attaching, metadata, values
from tmask.nn.packing.code_order import ordered
from tmask.nn.packing.routes import cutlass

HALVES = [torch.float16, torch.bfloat16]
CPU = torch.device("cpu")


@pytest.fixture
def kernel(monkeypatch):
    """A stand-in for the kernel, which the CPU then takes: as right as `spoil` lets it be."""

    class Kernel:
        calls = encoded = 0
        spoil = staticmethod(lambda out, out_t: None)

        def launch(self, weight, codes, out, out_t):
            self.calls += 1
            mask = values._mask_of(*codes)
            out.view(-1)[: mask.numel() // 2].copy_(weight[mask])
            out_t.view(-1)[: mask.numel() // 2].copy_(weight.t()[mask.t()])
            self.spoil(out, out_t)

        def encode(self, mask, codes, codes_t, order, order_t):
            self.encoded += 1
            codes.copy_(values._codes(mask))
            codes_t.copy_(values._codes(mask.t()).t())
            if len(order):
                order.copy_(ordered(codes))
                order_t.copy_(ordered(codes_t.t()))

    stand_in = Kernel()
    monkeypatch.setattr(values, "_kernels", Believed("values are written by torch", ("cpu",)))
    monkeypatch.setattr(values, "_launch", stand_in.launch)
    monkeypatch.setattr(values, "_launch_codes", stand_in.encode)
    return stand_in


def written(weight, kept, dtype):
    out = [torch.empty(weight.numel() // 2, dtype=dtype) for _ in range(2)]
    values.write_both(weight, kept, *out)
    return out


def expected(weight, mask, dtype):
    return [weight.to(dtype)[mask], weight.to(dtype).t()[mask.t()]]


def test_codes_are_bytes_and_tell_the_mask():
    mask = random_mask(48, 80)
    codes, codes_t = values.kept_codes(mask)
    assert (codes.shape, codes_t.shape, codes.dtype) == ((48, 20), (12, 80), torch.uint8)
    assert torch.equal(values._mask_of(codes, codes_t), mask)
    assert torch.equal(values._mask_of(codes_t.t(), codes.t()), mask.t())


def test_codes_wait_for_no_device():
    """At a renewal each layer has new ones; what counts its entries would be waited for, and hold 8 bytes for each."""

    class Called(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            seen.extend((str(func), one.element_size()) for one in tree_leaves(result))
            return result

    mask, seen = random_mask(48, 80), []
    with Called():
        values.kept_codes(mask)
    assert {size for _, size in seen} == {1}
    assert not [name for name, _ in seen if "nonzero" in name]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("given", [*HALVES, torch.float32])
def test_both_directions_without_a_kernel(given, dtype):
    mask, weight = random_mask(48, 80), torch.randn(48, 80).to(given)
    kept = values.kept_of(mask, dtype)
    assert {one.dtype for one in kept} == {torch.int32}
    assert all(map(torch.equal, written(weight, kept, dtype), expected(weight, mask, dtype)))


def test_with_a_kernel_codes_are_kept_and_one_launch_a_step_writes(kernel):
    mask, weight = random_mask(48, 80), torch.randn(48, 80)
    kept = values.kept_of(mask, torch.bfloat16)
    assert {one.dtype for one in kept} == {torch.uint8}
    for _ in range(2):
        written(weight, kept, torch.bfloat16)
    before = kernel.calls
    assert all(map(torch.equal, written(weight, kept, torch.bfloat16), expected(weight, mask, torch.bfloat16)))
    assert kernel.calls == before + 1


def test_a_kernel_is_tried_whatever_torchs_default_device_is(kernel):
    mask = random_mask(48, 80)
    with torch.device("meta"):
        assert values.kept_of(mask, torch.bfloat16)[0].dtype == torch.uint8


def test_codes_come_from_one_launch_too(kernel):
    values.kept_codes(random_mask(48, 80))
    before = kernel.encoded
    values.kept_codes(random_mask(48, 80, 1))
    assert kernel.encoded == before + 1


def test_codes_that_are_wrong_are_made_by_torch(kernel, monkeypatch, caplog):
    monkeypatch.setattr(values, "_launch_codes", lambda mask, codes, codes_t, *_: (codes.fill_(4), codes_t.fill_(4)))
    mask = random_mask(48, 80)
    with caplog.at_level(logging.WARNING, "tmask"):
        codes = values.kept_codes(mask)
    assert torch.equal(values._mask_of(*codes), mask)
    assert "it wrote other values than torch does" in caplog.text


def test_a_kernel_of_codes_that_fails_later_is_replaced_by_torch(kernel, monkeypatch, caplog):
    values.kept_codes(random_mask(48, 80))

    def fail(*_):
        raise RuntimeError("launch failure")

    monkeypatch.setattr(values, "_launch_codes", fail)
    mask = random_mask(48, 80, 1)
    with caplog.at_level(logging.WARNING, "tmask"):
        assert torch.equal(values._mask_of(*values.kept_codes(mask)), mask)
    assert "it failed: launch failure" in caplog.text


@pytest.mark.parametrize("which", range(2, 4))
def test_an_order_that_is_wrong_is_not_taken(kernel, monkeypatch, caplog, which):
    honest = kernel.encode

    def encode(mask, *outs):
        honest(mask, *outs)
        outs[which][-1:] ^= 16

    monkeypatch.setattr(values, "_launch_codes", encode)
    with caplog.at_level(logging.WARNING, "tmask"):
        assert values.codes_in_order(random_mask(64, 128))[1] is None
    assert "it wrote other values than torch does" in caplog.text


def test_the_order_of_codes_comes_along_where_there_is_one(kernel, emulated_cusparselt, monkeypatch):
    monkeypatch.setattr(metadata, "_alike", {})
    mask = random_mask(64, 128)
    (codes, codes_t), order = values.codes_in_order(mask)
    assert torch.equal(order[0], ordered(codes))
    assert torch.equal(order[1], ordered(codes_t.t()))
    assert values.codes_in_order(random_mask(48, 64))[1] is None
    emulated_cusparselt.plan(mask, torch.bfloat16)
    assert list(metadata._alike.values()) == [True]
    monkeypatch.setattr(metadata, "ordered", None)
    monkeypatch.setattr(torch, "_cslt_compress", None)
    again = emulated_cusparselt.plan(mask, torch.bfloat16)
    assert torch.equal(again[0].view(torch.uint8), order[0])
    assert torch.equal(again[1].view(torch.uint8), order[1])


@pytest.mark.parametrize("direction", [0, 1])
def test_a_kernel_that_writes_anything_else_is_not_taken_and_told_once(kernel, direction, caplog):
    kernel.spoil = lambda *outs: outs[direction][3].neg_()
    with caplog.at_level(logging.WARNING, "tmask"):
        for _ in range(3):
            kept = values.kept_of(random_mask(48, 80), torch.bfloat16)
            assert {one.dtype for one in kept} == {torch.int32}
    assert [record.getMessage().count("wrote other values") for record in caplog.records] == [1]


def test_a_kernel_that_rounds_otherwise_is_given_rounded_weights(kernel):
    honest = kernel.launch

    def truncating(weight, codes, out, out_t):
        cut = (weight.view(torch.int32) & ~0xFFFF).view(torch.float32) if weight.dtype == torch.float32 else weight
        honest(cut, codes, out, out_t)

    values._launch = truncating
    mask, weight = random_mask(48, 80), torch.randn(48, 80)
    kept = values.kept_of(mask, torch.bfloat16)
    assert kept[0].dtype == torch.uint8
    assert all(map(torch.equal, written(weight, kept, torch.bfloat16), expected(weight, mask, torch.bfloat16)))


def test_a_backward_pass_over_values_that_the_kernel_has_written_since_fails_loudly(emulated_cusparselt, kernel):
    """A kernel writes by address, where torch cannot see it."""
    honest = kernel.launch
    values._launch = lambda weight, codes, out, out_t: honest(weight, codes, out.data, out_t.data)
    layer = masked_linear()
    attaching.attach(layer)
    result = layer(torch.randn(8, 128).bfloat16().requires_grad_())
    before = kernel.calls
    with torch.no_grad():
        master_of(layer).mul_(2)
    attaching.refresh(layer)
    assert kernel.calls > before
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


def test_a_kernel_that_fails_in_the_middle_of_training_is_replaced_by_torch(kernel, caplog):
    mask, weight = random_mask(48, 80), torch.randn(48, 80).bfloat16()
    kept = values.kept_of(mask, torch.bfloat16)

    def fail(*_):
        raise RuntimeError("launch failure")

    values._launch = fail
    out = [torch.empty(weight.numel() // 2, dtype=torch.bfloat16) for _ in range(2)]
    with caplog.at_level(logging.WARNING, "tmask"):
        for _ in range(3):
            kept = values.write_both(weight, kept, *out)
            assert all(map(torch.equal, out, expected(weight, mask, torch.bfloat16)))
            assert {one.dtype for one in kept} == {torch.int32}, "from now on"
    assert caplog.text.count("it failed: launch failure") == 1
    assert values.kept_of(mask, torch.bfloat16)[0].dtype == torch.int32


def test_without_triton_torch_writes(monkeypatch, caplog):
    monkeypatch.setattr(values, "_kernels", Believed("values are written by torch", ("cpu",)))
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "tmask.nn.packing.values_kernel", raising=False)
    with caplog.at_level(logging.WARNING, "tmask"):
        assert values.kept_of(random_mask(48, 80), torch.bfloat16)[0].dtype == torch.int32
    assert "it does not run: " in caplog.text


INTERPRETED = """
import torch
from tests.nn.two_four import random_mask
from tmask.nn.packing import values, values_kernel
from tmask.nn.packing.code_order import ordered
for given, wanted in (("bfloat16", "bfloat16"), ("float16", "float16"), ("float32", "float16")):
    for shape in ((16, 16), (48, 80), (144, 272), (128, 192)):
        mask = random_mask(*shape)
        weight = torch.randn(shape).to(getattr(torch, given))
        weight[::3, ::5] = -0.0
        out, out_t = (torch.full((mask.numel() // 2,), 7, dtype=getattr(torch, wanted)) for _ in range(2))
        codes = values.kept_codes(mask)
        again = [torch.empty_like(one) for one in codes]
        order = [torch.empty(mask.numel() // 8, dtype=torch.uint8) for _ in range(2)]
        values_kernel.encode(mask, *again, *order)
        assert all(map(torch.equal, again, codes)), shape
        if not (shape[0] % 64 or shape[1] % 64):
            assert all(map(torch.equal, order, (ordered(codes[0]), ordered(codes[1].t())))), shape
        values_kernel.write(weight, *codes, out, out_t)
        rounded = weight.to(out.dtype)
        assert torch.equal(out.view(torch.int16), rounded[mask].view(torch.int16)), (given, wanted, shape)
        assert torch.equal(out_t.view(torch.int16), rounded.t()[mask.t()].view(torch.int16)), (given, wanted, shape)
"""


def test_the_kernel_in_tritons_interpreter():
    run_interpreted(INTERPRETED)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("given", [*HALVES, torch.float32])
def test_the_kernel_on_cuda(given, dtype):
    device = torch.device("cuda", 0)
    mask, weight = random_mask(1024, 1104).to(device), torch.randn(1024, 1104, device=device).to(given)
    kept = values.kept_of(mask, dtype)
    assert kept[0].dtype == torch.uint8, "the kernel was not believed"
    assert values._kernels.knows(device, (torch.bool, torch.uint8)), "nor the one that makes codes"
    assert torch.equal(kept[0], values._codes(mask))
    assert torch.equal(kept[1], values._codes(mask.t()).t())
    out = [torch.empty(weight.numel() // 2, dtype=dtype, device=device) for _ in range(2)]
    values.write_both(weight, kept, *out)
    assert all(map(torch.equal, out, expected(weight, mask, dtype)))


@pytest.mark.parametrize("agrees", [True, False])
def test_cutlass_writes_in_place_only_where_torch_packs_in_that_order(emulated_cutlass, monkeypatch, caplog, agrees):
    monkeypatch.setattr(cutlass, "_in_order", {})
    mask = random_mask(64, 128)
    weights = [torch.randn(64, 128).bfloat16() for _ in range(3)]
    plan = emulated_cutlass.plan(mask, torch.bfloat16)
    if not agrees:
        apply = torch._sparse_semi_structured_apply
        monkeypatch.setattr(
            torch, "_sparse_semi_structured_apply", lambda *args: tuple(one.flip(1) for one in apply(*args))
        )
    packed = emulated_cutlass.pack(weights[0], plan)
    packed = emulated_cutlass.repack(packed, weights[1], plan)
    addresses = [one[0].data_ptr() for one in packed]
    with caplog.at_level(logging.WARNING, "tmask"):
        last = emulated_cutlass.repack(packed, weights[2], plan)
    assert ([one[0].data_ptr() for one in last] == addresses) == agrees
    for ours, theirs in zip(last, emulated_cutlass.pack(weights[2], plan), strict=True):
        assert torch.equal(ours[0], theirs[0])
    monkeypatch.setattr(cutlass, "_in_order", {})


def test_a_float32_master_is_written_in_the_dtype_of_autocast(emulated_cusparselt, kernel):
    layer = masked_linear(dtype=torch.float32)
    attaching.attach(layer)
    x = torch.randn(8, 128)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
        with torch.no_grad():
            master_of(layer).mul_(1.37)
        attaching.refresh(layer)
        expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=2e-2 * float(expected.detach().abs().max()))
    assert kernel.calls

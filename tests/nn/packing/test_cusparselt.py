"""What is particular to the cuSPARSELt route, on emulated kernels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.nn.linears import mask_of, masked_linear, master_of
from tests.nn.two_four import random_mask
from tmask.errors import KernelError
from tmask.nn.packing import attaching, metadata, verification
from tmask.nn.packing.operators import packed_product
from tmask.nn.packing.routes import ROUTES
from tmask.nn.packing.values import kept_places, write_kept

HALVES = [torch.float16, torch.bfloat16]


@pytest.fixture
def asked(monkeypatch):
    """Whether each product asked the library to transpose its result, by dtype."""
    calls = []
    real = torch._cslt_sparse_mm

    def noted(compressed, dense, **options):
        calls.append((dense.dtype, options.get("transpose_result", False)))
        return real(compressed, dense, **options)

    monkeypatch.setattr(torch, "_cslt_sparse_mm", noted)
    return calls


def run(layer, x, upstream):
    """Output, and the gradients of input, weight and bias."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    result = layer(x)
    result.backward(upstream)
    return [result.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("bias", [True, False])
def test_float16_never_asks_for_a_transposed_result_and_is_right(emulated_cusparselt, asked, dtype, bias):
    layer = masked_linear(dtype=dtype, bias=bias)
    x, upstream = torch.randn(3, 8, 128).to(dtype), torch.randn(3, 8, 64).to(dtype)
    expected = run(layer, x, upstream)
    attaching.attach(layer)
    assert asked, "products are verified first"
    ours = run(layer, x, upstream)
    assert len(asked) >= 2
    assert set(asked) == {(dtype, dtype == torch.bfloat16)}
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-2 * float(other.abs().max()))


def addresses(layer):
    """Where the packed weights of a layer lie, both directions of each dtype."""
    operands = vars(layer)["_tmask_packed"].operands
    return {dtype: [tensor.data_ptr() for one in pair for tensor in one] for dtype, pair in operands.items()}


def compressed(weight, mask):
    """What the library itself makes of a masked weight, in both directions."""
    masked = torch.where(mask, weight, 0)
    return [torch._cslt_compress(one.contiguous()).view(torch.int16) for one in (masked, masked.t())]


def bits_of(packed):
    return [one[0].view(torch.int16) for one in packed]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape", [(64, 128), (96, 32), (16, 16)])
def test_packed_bytes_are_those_of_the_library_where_no_kept_weight_is_zero(emulated_cusparselt, dtype, shape):
    mask, weight = random_mask(*shape), torch.randn(shape).to(dtype)
    packed = emulated_cusparselt.pack(weight, emulated_cusparselt.plan(mask, dtype))
    for ours, theirs in zip(bits_of(packed), compressed(weight, mask), strict=True):
        assert torch.equal(ours, theirs)


@pytest.fixture
def compressions(monkeypatch):
    """How often the library has compressed."""
    calls = []
    real = torch._cslt_compress
    monkeypatch.setattr(torch, "_cslt_compress", lambda one: (calls.append(one.shape), real(one))[1])
    monkeypatch.setattr(metadata, "_alike", {})
    return calls


@pytest.mark.parametrize("dtype", HALVES)
def test_metadata_are_made_without_the_library_where_its_order_was_seen_to_be_ours(
    emulated_cusparselt, compressions, dtype
):
    for seed in range(3):
        mask = random_mask(128, 192, seed)
        plan = emulated_cusparselt.plan(mask, dtype)
        for one, masked in zip(plan, (mask, mask.t()), strict=False):
            whole = torch._cslt_compress(masked.to(dtype).contiguous()).flatten()
            assert torch.equal(one.view(torch.int16), whole[mask.numel() // 2 :].view(torch.int16))
    assert len(compressions) == 2 + 3 * 2, "two of them for the comparison, the others are this test's"


@pytest.mark.parametrize("direction", [0, 1])
def test_where_the_library_has_another_order_its_word_stands(emulated_cusparselt, compressions, monkeypatch, direction):
    ours = metadata._in_order

    def other(*args):
        found = ours(*args)
        found[direction].view(torch.int16)[-1] ^= 1
        return found

    monkeypatch.setattr(metadata, "_in_order", other)
    mask = random_mask(128, 128)
    for _ in range(2):
        plan = emulated_cusparselt.plan(mask, torch.bfloat16)
        whole = torch._cslt_compress(mask.bfloat16()).flatten()
        assert torch.equal(plan[0].view(torch.int16), whole[mask.numel() // 2 :].view(torch.int16))
    assert len(compressions) == 2 * 3
    verification.verify(emulated_cusparselt, (128, 128), torch.bfloat16, torch.device("cpu"))


def test_metadata_of_sides_whose_order_nobody_has_read_are_the_librarys(emulated_cusparselt, compressions):
    for _ in range(2):
        emulated_cusparselt.plan(random_mask(96, 128), torch.bfloat16)
    assert len(compressions) == 2 * 2


@pytest.mark.parametrize("dtype", HALVES)
def test_kept_zeros_keep_their_places(emulated_cusparselt, dtype):
    """Metadata of a weight with kept zeros are another mask's, and wrong for the values of the next step."""
    mask, weight = random_mask(64, 128), torch.randn(64, 128).to(dtype)
    early = weight.clone()
    early[::2] = 0
    early[1::4, ::3] = -0.0
    plan = emulated_cusparselt.plan(mask, dtype)
    packed = emulated_cusparselt.pack(early, plan)
    tokens = torch.eye(128).to(dtype)
    masked = [torch.where(mask, one, 0).t() for one in (early, weight)]
    torch.testing.assert_close(packed_product(tokens, packed[0], 64, "cusparselt"), masked[0], rtol=0, atol=0)
    emulated_cusparselt.repack(packed, weight, plan)
    torch.testing.assert_close(packed_product(tokens, packed[0], 64, "cusparselt"), masked[1], rtol=0, atol=0)

    taken_from_weight = torch._cslt_compress(torch.where(mask, early, 0))
    taken_from_weight.view(-1)[: mask.numel() // 2] = weight[mask]
    assert not torch.equal(packed_product(tokens, [taken_from_weight], 64, "cusparselt"), masked[1])


def test_steps_and_new_masks_are_written_where_the_old_values_were(emulated_cusparselt):
    layer = masked_linear(dtype=torch.float32)
    attaching.attach(layer)
    x = torch.randn(8, 128)

    def both():
        for dtype in HALVES:
            with torch.autocast("cpu", dtype):
                expected = nn.functional.linear(x, layer.weight, layer.bias)
                torch.testing.assert_close(layer(x), expected, rtol=0, atol=2e-2 * float(expected.detach().abs().max()))
        return addresses(layer)

    first = both()
    assert set(first) == set(HALVES)
    for refresh in (True, False, True):
        with torch.no_grad():
            master_of(layer).mul_(-1.5)
        if refresh:
            attaching.refresh(layer)
        assert both() == first
    for seed, refresh in ((7, True), (8, False)):
        mask_of(layer).copy_(random_mask(64, 128, seed))
        if refresh:
            attaching.refresh(layer)
        assert both() == first


def test_places_of_a_mask_are_narrow_and_in_order():
    mask, weight = random_mask(32, 64), torch.randn(32, 64)
    places = kept_places(mask)
    assert {one.dtype for one in places} == {torch.int32}
    for one, expected in zip(places, (weight[mask], weight.t()[mask.t()]), strict=True):
        out = torch.empty(len(one))
        write_kept(weight, one, out)
        assert torch.equal(out, expected)


def test_a_backward_pass_over_values_that_were_written_since_fails_loudly(emulated_cusparselt):
    layer = masked_linear()
    attaching.attach(layer)
    result = layer(torch.randn(8, 128).bfloat16().requires_grad_())
    with torch.no_grad():
        master_of(layer).mul_(2)
    attaching.refresh(layer)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


@pytest.mark.parametrize(("dtype", "views"), [(torch.float16, True), (torch.bfloat16, False)])
@pytest.mark.parametrize("count", [16, 13])
def test_a_result_that_comes_transposed_stays_so_where_that_is_allowed(emulated_cusparselt, dtype, views, count):
    """And the next product takes it as it is; what is not a whole number of eights is padded, by a copy."""
    route = ROUTES["cusparselt"]
    mask = random_mask(64, 64)
    weight = torch.randn(64, 64).to(dtype)
    packed, _ = route.pack(weight, route.plan(mask, dtype))
    tokens = torch.randn(count, 64).to(dtype)
    plain = packed_product(tokens, packed, 64, "cusparselt")
    free = packed_product(tokens, packed, 64, "cusparselt", any_strides=True)
    assert plain.is_contiguous()
    assert torch.equal(plain, free)
    assert (free.stride() == (1, 16)) == views
    for allowed, result in ((False, plain), (True, free)):
        with torch._subclasses.FakeTensorMode() as mode:
            fakes = mode.from_tensor(tokens), [mode.from_tensor(part) for part in packed]
            foretold = packed_product(*fakes, 64, "cusparselt", any_strides=allowed)
        assert (foretold.shape, foretold.stride()) == (result.shape, result.stride()), "compiled code goes by it"
    again = packed_product(free, packed, 64, "cusparselt")
    assert torch.equal(again, packed_product(plain, packed, 64, "cusparselt"))


def spoilt_by_columns(monkeypatch):
    real = torch._cslt_sparse_mm
    monkeypatch.setattr(torch, "_cslt_sparse_mm", lambda a, b, **k: real(a, b, **k) + b.is_contiguous())


def test_products_of_tokens_by_columns_are_verified_too(emulated_cusparselt, monkeypatch):
    spoilt_by_columns(monkeypatch)
    with pytest.raises(KernelError, match="256 tokens by columns, without bias, is off by"):
        attaching.attach(masked_linear(dtype=torch.float16))


def test_where_results_are_not_transposed_tokens_by_columns_are_copied(emulated_cusparselt, monkeypatch):
    """Both ways round at once no device has seen: the library would transpose the result of a transposed operand."""
    spoilt_by_columns(monkeypatch)
    layer = masked_linear()
    attaching.attach(layer)
    x = torch.randn(128, 16).bfloat16()
    assert torch.equal(layer(x.t()), layer(x.t().contiguous()))


def test_tokens_that_lie_by_columns_are_not_copied(emulated_cusparselt, monkeypatch):
    seen = []
    route = ROUTES["cusparselt"]
    original = type(route).product
    monkeypatch.setattr(
        type(route),
        "product",
        lambda self, tokens, *rest: seen.append(tokens.data_ptr()) or original(self, tokens, *rest),
    )
    packed, _ = route.pack(torch.randn(64, 64).half(), route.plan(random_mask(64, 64), torch.float16))
    tokens = torch.randn(64, 16).half().t()
    packed_product(tokens, packed, 64, "cusparselt")
    packed_product(tokens[:8], packed, 64, "cusparselt")
    assert seen[0] == tokens.data_ptr()
    assert seen[1] != tokens.data_ptr(), "rows with gaps are"

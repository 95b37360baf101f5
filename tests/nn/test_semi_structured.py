"""Packed linear layers against masked ones: by a stand-in route on the CPU, by the real ones where there is a GPU."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch._dynamo.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from tests.nn.two_four import random_mask
from tests.nn.unpacked_route import Unpacked
from tmask.errors import InvalidMaskError, InvalidProblemError, KernelError
from tmask.nn import routes, semi_structured, verification
from tmask.nn.packed_linear import packed_linear, packed_product
from tmask.nn.parametrization import Masked, put_on
from tmask.nn.routes.cutlass import tile_bits
from tmask.pattern import Pattern

CUDA = torch.device("cuda", 0)
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 3e-3}


@pytest.fixture(params=["unpacked", "cutlass", "cusparselt"])
def route(request, monkeypatch):
    """A route and its device; each real one is skipped where it cannot run."""
    monkeypatch.setattr(verification, "_verified", set())
    monkeypatch.setattr(semi_structured, "_paid", {})
    if request.param == "unpacked":
        monkeypatch.setitem(routes.ROUTES, "unpacked", Unpacked())
        return routes.ROUTES["unpacked"], torch.device("cpu")
    if problem := routes.ROUTES[request.param].problem(CUDA):
        pytest.skip(problem)
    return routes.ROUTES[request.param], CUDA


@pytest.fixture
def unpacked(monkeypatch):
    """The stand-in alone."""
    monkeypatch.setattr(verification, "_verified", set())
    monkeypatch.setattr(semi_structured, "_paid", {})
    monkeypatch.setitem(routes.ROUTES, "unpacked", Unpacked())
    return routes.ROUTES["unpacked"]


def masked_linear(
    out=64, into=128, *, device="cpu", dtype=torch.bfloat16, bias=True, gradient="straight-through", seed=0
):
    torch.manual_seed(seed)
    layer = nn.Linear(into, out, bias=bias, device=device, dtype=dtype)
    masked = Masked(layer.weight, Pattern(2, 4), gradient)
    masked.mask.copy_(random_mask(out, into, seed))
    put_on(layer, "weight", masked)
    return layer


def mask_of(layer):
    return layer.parametrizations.weight[0].mask


def master_of(layer):
    return layer.parametrizations.weight.original


def run(layer, x, gradient):
    """Output, and the gradients of input, master weight and bias."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    result = layer(x)
    result.backward(gradient)
    return [result.detach(), x.grad, master_of(layer).grad, *([layer.bias.grad] if layer.bias is not None else [])]


def assert_close(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE[torch.bfloat16] * float(other.abs().max() + 1e-6))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gradient", ["straight-through", "masked"])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_those_of_the_masked_layer(route, dtype, gradient, bias):
    _, device = route
    layer = masked_linear(device=device, dtype=dtype, gradient=gradient, bias=bias)
    x = torch.randn(2, 13, 128, device=device).to(dtype)
    upstream = torch.randn(2, 13, 64, device=device).to(dtype)
    expected = run(layer, x, upstream)
    semi_structured.attach(layer)
    ours = run(layer, x, upstream)
    assert_close(ours, expected)
    assert ours[2].ne(0).logical_and(~mask_of(layer)).any() == (gradient == "straight-through")


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(0, 40), st.integers(0, 999))
def test_any_shape_and_count_of_tokens(out, into, count, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(routes.ROUTES, "unpacked", Unpacked())
        layer = masked_linear(32 * out, 32 * into, seed=seed)
        x, upstream = torch.randn(count, 32 * into).bfloat16(), torch.randn(count, 32 * out).bfloat16()
        expected = run(layer, x, upstream)
        semi_structured.attach(layer)
        ours = run(layer, x, upstream)
    for one, other in zip(ours, expected, strict=True):
        assert one.shape == other.shape
        if other.numel():
            torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2 * float(other.abs().max()))


@pytest.mark.parametrize("x", [torch.ones(128), torch.ones(1, 128), torch.ones(2, 0, 128), torch.ones(128, 3).t()])
def test_inputs_of_any_rank_and_strides(unpacked, x):
    layer = masked_linear(bias=False)
    expected = layer(x.bfloat16())
    semi_structured.attach(layer)
    ours = layer(x.bfloat16())
    assert ours.shape == expected.shape
    torch.testing.assert_close(ours, expected)
    assert unpacked.products > 0


def test_autocast_packs_float32_masters_in_its_dtype(route):
    _, device = route
    layer = masked_linear(device=device, dtype=torch.float32)
    x, upstream = torch.randn(16, 128, device=device), torch.randn(16, 64, device=device).bfloat16()
    with torch.autocast(device.type, torch.bfloat16):
        expected = run(layer, x, upstream)
    semi_structured.attach(layer)
    with torch.autocast(device.type, torch.bfloat16):
        ours = run(layer, x, upstream)
    assert ours[0].dtype == torch.bfloat16
    assert ours[2].dtype == torch.float32
    assert_close(ours, expected)


def test_float32_without_autocast_is_the_masked_product(unpacked):
    layer = masked_linear(dtype=torch.float32)
    semi_structured.attach(layer)
    x = torch.randn(4, 128)
    torch.testing.assert_close(layer(x), functional.linear(x, layer.weight, layer.bias), rtol=0, atol=0)
    assert unpacked.products == 0
    with pytest.raises(RuntimeError, match="dtype"):
        layer(x.bfloat16())  # as nn.Linear does


def test_training_follows_the_masked_layer_and_packs_once_a_step(route):
    kind, device = route
    plain = masked_linear(device=device, dtype=torch.float32)
    packed = copy.deepcopy(plain)
    semi_structured.attach(packed)
    verification.verify(kind, (64, 128), torch.bfloat16, device)
    packs = kind.packs if kind.name == "unpacked" else None
    batches = [torch.randn(24, 128, device=device) for _ in range(9)]
    for layer in (plain, packed):
        optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2, fused=True)
        for step in range(3):
            for x in batches[3 * step : 3 * step + 3]:
                with torch.autocast(device.type, torch.bfloat16):
                    layer(x).float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if layer is packed:
                semi_structured.refresh(layer)
    # One packing when it was first called, and one for each step: a fused optimizer is noticed by refresh alone.
    assert packs is None or kind.packs - packs == 4
    for ours, theirs in zip(packed.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-3)


def test_changes_in_place_are_noticed_without_refresh(unpacked):
    layer = masked_linear()
    semi_structured.attach(layer)
    x = torch.randn(8, 128).bfloat16()
    before = layer(x)
    other = masked_linear(seed=1)
    layer.load_state_dict(other.state_dict())
    assert not torch.equal(layer(x), before)
    torch.testing.assert_close(layer(x), other(x))
    packs = unpacked.packs
    layer(x)
    assert unpacked.packs == packs


def test_a_new_mask_makes_a_new_plan_and_a_new_weight_does_not(unpacked):
    layer = masked_linear()
    semi_structured.attach(layer)
    plans = unpacked.plans
    with torch.no_grad():
        master_of(layer).mul_(2)
    semi_structured.refresh(layer)
    assert unpacked.plans == plans
    mask_of(layer).copy_(random_mask(64, 128, 7))
    semi_structured.refresh(layer)
    assert unpacked.plans == plans + 1
    x = torch.randn(8, 128).bfloat16()
    torch.testing.assert_close(layer(x), functional.linear(x, layer.weight, layer.bias))


def test_backward_uses_what_forward_used(route):
    _, device = route
    layer = masked_linear(device=device, bias=False)
    semi_structured.attach(layer)
    x = torch.randn(8, 128, device=device).bfloat16().requires_grad_()
    weight = layer.weight.detach().clone()
    result = layer(x)
    mask_of(layer).copy_(random_mask(64, 128, 5))
    semi_structured.refresh(layer)
    upstream = torch.randn_like(result)
    result.backward(upstream)
    torch.testing.assert_close(x.grad, upstream @ weight, rtol=2e-2, atol=0.1)


def test_evaluation_in_inference_mode_before_training(route):
    _, device = route
    layer = masked_linear(device=device, dtype=torch.float32)
    semi_structured.attach(layer)
    x = torch.randn(8, 128, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        with torch.inference_mode():
            layer(x)
        layer(x.requires_grad_()).sum().backward()
    assert x.grad is not None


def test_frozen_inputs_and_weights_cost_no_product(unpacked):
    layer = masked_linear()
    semi_structured.attach(layer)
    products = unpacked.products
    layer(torch.randn(8, 128).bfloat16()).sum().backward()
    assert unpacked.products == products + 1  # no gradient of the input
    master_of(layer).requires_grad_(False)
    x = torch.randn(8, 128).bfloat16().requires_grad_()
    layer(x).sum().backward()
    assert unpacked.products == products + 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_whole_and_valid_after_refresh(route):
    _, device = route
    layer = masked_linear(device=device)
    semi_structured.attach(layer)
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    x, upstream = torch.randn(8, 128, device=device).bfloat16(), torch.randn(8, 64, device=device).bfloat16()
    for seed in range(3):
        mask_of(layer).copy_(random_mask(64, 128, seed))
        with torch.no_grad():
            master_of(layer).mul_(1.5)
        semi_structured.refresh(layer)
        expected = run(layer, x, upstream)
        layer.zero_grad()
        inputs = x.clone().requires_grad_()
        result = compiled(inputs)
        result.backward(upstream)
        assert_close([result.detach(), inputs.grad, master_of(layer).grad, layer.bias.grad], expected)
    assert counter.frame_count == 1


def test_a_float32_layer_that_was_not_packed_yet_breaks_the_graph_but_compiles(unpacked):
    layer = masked_linear(dtype=torch.float32)
    semi_structured.attach(layer)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager")
    x = torch.randn(8, 128)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(x), layer(x))


def test_operators_keep_torchs_rules(unpacked):
    mask = random_mask(64, 128)
    weight = torch.randn(64, 128, requires_grad=True)
    packed, packed_t = unpacked.pack(weight.detach().bfloat16(), [mask])
    x, bias = (torch.randn(*shape).bfloat16().requires_grad_() for shape in ((13, 128), (64,)))
    arguments = (x, weight, bias, packed, packed_t, mask, "unpacked")
    torch.library.opcheck(torch.ops.tmask.packed_linear.default, arguments)
    torch.library.opcheck(torch.ops.tmask.packed_product.default, (x.detach(), packed, 64, "unpacked", None))
    result = packed_linear(*arguments)
    torch.testing.assert_close(result, packed_product(x.detach(), packed, 64, "unpacked", bias.detach()))


def test_detach_and_deepcopy(unpacked):
    layer = masked_linear()
    keys = list(layer.state_dict())
    semi_structured.attach(layer)
    assert list(layer.state_dict()) == keys
    twin = copy.deepcopy(layer)
    semi_structured.detach(layer)
    assert not semi_structured.attached(layer)
    assert semi_structured.attached(twin)
    x = torch.randn(8, 128).bfloat16()
    products = unpacked.products
    expected = layer(x)
    assert unpacked.products == products
    torch.testing.assert_close(twin(x), expected)
    assert unpacked.products == products + 1
    with torch.no_grad():
        master_of(twin).mul_(2)
    assert not torch.equal(twin(x), layer(x))
    semi_structured.detach(layer)  # nothing to undo


def test_attaching_twice_is_a_refresh(unpacked):
    layer = masked_linear()
    semi_structured.attach(layer)
    packs = unpacked.packs
    with torch.no_grad():
        master_of(layer).mul_(2)
    semi_structured.attach(layer)
    assert unpacked.packs == packs + 1
    x = torch.randn(8, 128).bfloat16()
    torch.testing.assert_close(layer(x), functional.linear(x, layer.weight, layer.bias))
    semi_structured.detach(layer)
    products = unpacked.products
    layer(torch.randn(8, 128).bfloat16())
    assert unpacked.products == products


@pytest.mark.parametrize("seed", range(3))
def test_an_incomplete_mask_is_refused_and_nothing_is_left_behind(unpacked, seed):
    layer = masked_linear()
    good = mask_of(layer).clone()
    row = 5 + seed
    mask_of(layer)[row, 4:8] = True
    with pytest.raises(InvalidMaskError, match=f"row {row}, columns 4 to 7 of the mask keeps 4 of 4"):
        semi_structured.attach(layer)
    assert not semi_structured.attached(layer)
    mask_of(layer).copy_(good)
    semi_structured.attach(layer)
    mask_of(layer)[row] = False
    with pytest.raises(InvalidMaskError, match=f"row {row}, columns 0 to 3 of the mask keeps 0 of 4"):
        semi_structured.refresh(layer)


def test_what_cannot_be_attached_is_refused(unpacked):
    with pytest.raises(InvalidProblemError, match=r"only nn\.Linear has a packed product, not Conv2d"):
        semi_structured.attach(nn.Conv2d(32, 32, 3))
    with pytest.raises(InvalidProblemError, match="has no mask on its weight"):
        semi_structured.attach(nn.Linear(64, 64))
    with pytest.raises(InvalidProblemError, match="call attach first"):
        semi_structured.refresh(masked_linear())
    twice = masked_linear()
    nn.utils.parametrize.register_parametrization(twice, "weight", nn.Identity())
    with pytest.raises(InvalidProblemError, match="other parametrizations"):
        semi_structured.attach(twice)
    with pytest.raises(InvalidProblemError, match="multiples of 32"):
        semi_structured.attach(masked_linear(64, 48))
    with pytest.raises(InvalidProblemError, match="dtype float64"):
        semi_structured.attach(masked_linear(dtype=torch.float64))


def test_without_a_gpu_attach_says_so():
    with pytest.raises(InvalidProblemError, match="no sparse kernel runs on a cpu device; use backend 'masked'"):
        semi_structured.attach(masked_linear())


def test_supported_gives_the_reason(unpacked):
    def why(shape=(64, 64), dtype=torch.bfloat16, device="cpu", pattern="2:4"):
        return semi_structured.supported(shape, dtype, device, pattern)

    assert why() == (True, "")
    assert why(pattern="4:8") == (False, "sparse tensor cores multiply 2:4 alone, not 4:8")
    for expected, arguments in (
        ("both sides in multiples of 32", {"shape": (64, 40)}),
        ("both sides in multiples of 32", {"shape": (0, 64)}),
        ("4 axes", {"shape": (64, 64, 3, 3)}),
        ("dtype float32", {"dtype": torch.float32}),
        ("no sparse kernel runs on a meta device", {"device": "meta"}),
    ):
        fits, reason = why(**arguments)
        assert not fits
        assert expected in reason


@pytest.mark.parametrize(("name", "multiple"), [("cutlass", 64), ("cusparselt", 16)])
def test_shapes_that_fit_the_real_routes(name, multiple):
    real = routes.ROUTES[name]
    for rows, cols in itertools.product((16, 32, 64, 96, 128, 4096), repeat=2):
        fits = rows % multiple == 0 and cols % multiple == 0
        assert (semi_structured.misfit(real, (rows, cols), torch.float16) == "") == fits


@pytest.mark.parametrize(
    ("capability", "name"), [((8, 0), "cutlass"), ((8, 9), "cutlass"), ((9, 0), "cusparselt"), ((12, 0), "cusparselt")]
)
def test_the_route_follows_the_compute_capability(monkeypatch, capability, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.backends.cusparselt, "is_available", lambda: True)
    found, problem = routes.find_route(torch.device("cuda"))
    assert found is not None
    assert (found.name, problem) == (name, "")


def test_no_route_for_old_devices_or_without_the_library(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    found, problem = routes.find_route(torch.device("cuda"))
    assert found is None
    assert "need compute capability 8.x; this device has 7.5" in problem
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.backends.cusparselt, "is_available", lambda: False)
    assert "without cuSPARSELt" in routes.find_route(torch.device("cuda"))[1]


def test_verification_passes_once_and_is_remembered(route):
    kind, device = route
    verification.verify(kind, (64, 128), torch.bfloat16, device)
    products = kind.products if kind.name == "unpacked" else None
    verification.verify(kind, (64, 128), torch.bfloat16, device)
    assert products is None or kind.products == products
    verification.verify(kind, (128, 192), torch.float16, device)


def test_values_in_the_wrong_place_are_found(unpacked):
    unpacked.shift = 1
    with pytest.raises(KernelError, match=r"packed W puts wrong values in \d+ places, first at row \d+, column 0"):
        semi_structured.attach(masked_linear())
    unpacked.shift = 0
    verification.verify(unpacked, (64, 128), torch.bfloat16, torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wrong", ["a column too few", "no bias", "NaN"])
def test_wrong_sums_are_found(unpacked, monkeypatch, dtype, wrong):
    right = Unpacked.product

    def product(self, tokens, operand, rows, bias):
        if wrong == "no bias":
            return right(self, tokens, operand, rows, None)
        result = right(self, tokens, operand, rows, bias)
        if len(tokens) == 256:  # right with tokens of one nonzero each
            result[200, 3] = float("nan") if wrong == "NaN" else result[200, 3] + 1
        return result

    monkeypatch.setattr(Unpacked, "product", product)
    with pytest.raises(KernelError, match=r"is off by .* of its size"):
        verification.verify(unpacked, (64, 128), dtype, torch.device("cpu"))


def test_a_kernel_that_raises_is_named(unpacked, monkeypatch):
    def fail(self, weight, plan):
        raise RuntimeError("CUDA error: architecture mismatch when calling cusparseLtInit")

    monkeypatch.setattr(Unpacked, "pack", fail)
    with pytest.raises(KernelError, match="unpacked fails on cpu: CUDA error: architecture mismatch"):
        semi_structured.attach(masked_linear())


def test_trial_masks_are_complete():
    mask = verification.random_mask(64, 96, torch.device("cpu"))
    assert mask.view(64, -1, 4).sum(-1).eq(2).all()
    assert mask.t().reshape(96, -1, 4).sum(-1).eq(2).all()


def test_pays_measures_once_and_says_what(route):
    kind, device = route
    answer, why = semi_structured.pays((64, 128), torch.bfloat16, device, tokens=32)
    assert isinstance(answer, bool)
    assert "ms packed" in why
    assert "measured with 32 tokens" in why
    products = kind.products if kind.name == "unpacked" else None
    assert semi_structured.pays((64, 128), torch.bfloat16, device, tokens=32) == (answer, why)
    assert products is None or kind.products == products


@pytest.mark.parametrize(("sparse_forward", "faster", "total"), [(1, True, "5"), (2.2, True, "6.2"), (3, False, "7")])
def test_pays_compares_a_whole_step_with_the_masked_one(unpacked, monkeypatch, sparse_forward, faster, total):
    monkeypatch.setattr(semi_structured, "measure_linear", lambda *_: semi_structured_timing(1e-3 * sparse_forward))
    answer, why = semi_structured.pays((64, 64), torch.bfloat16, "cpu")
    assert answer == faster
    assert f"{total} ms packed (2 of them packing) against 6.5 ms masked, measured with 8192 tokens" in why


def semi_structured_timing(sparse_forward):
    from tmask.nn.timing import Timing

    return Timing(
        tokens=8192, dense_forward=2e-3, dense_backward=4e-3, sparse_forward=sparse_forward, sparse_backward=2e-3,
        mask=5e-4, pack=2e-3,
    )  # fmt: skip


def test_a_wrong_kernel_does_not_pay_and_warns(unpacked):
    unpacked.shift = 1
    with pytest.warns(RuntimeWarning, match="masked products instead of packed ones: unpacked with a 64x64 weight"):
        answer, why = semi_structured.pays((64, 64), torch.bfloat16, "cpu")
    assert not answer
    assert "puts wrong values" in why


def test_pays_refuses_what_is_not_supported(unpacked):
    with pytest.raises(InvalidProblemError, match="no packed product: dtype float32"):
        semi_structured.pays((64, 64), torch.float32, "cpu")


def test_the_bitmask_of_tiles_entry_by_entry():
    mask = random_mask(32, 64, 3)
    expected = torch.zeros(4, 8, 8, dtype=torch.uint8)
    for row, col in mask.nonzero().tolist():
        quarter = 2 * (row % 8 // 4) + col % 8 // 4
        bit = 4 * (row % 4) + col % 4
        expected[row // 8, col // 8, 2 * quarter + bit // 8] |= 1 << bit % 8
    assert torch.equal(tile_bits(mask), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cutlass_packs_as_the_reference_does():
    from tmask.nn.packing import bits, pack

    cutlass = routes.ROUTES["cutlass"]
    if problem := cutlass.problem(CUDA):
        pytest.skip(problem)
    mask, weight = random_mask(128, 192).to(CUDA), torch.randn(128, 192, device=CUDA).bfloat16()
    (values, meta), (values_t, meta_t) = cutlass.pack(weight, cutlass.plan(mask, torch.bfloat16))
    expected = pack(weight, mask)
    for ours, theirs in ((values, expected.values), (values_t, expected.values_t)):
        assert torch.equal(bits(ours), bits(theirs))
    for ours, theirs in ((meta, expected.meta), (meta_t, expected.meta_t)):
        assert torch.equal(ours.permute(2, 0, 1).flatten(), theirs.flatten())  # (rows, 2, cols / 32), columns outermost

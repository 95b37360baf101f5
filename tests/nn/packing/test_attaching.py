"""Packed linear layers against masked ones, on every route that can run."""

from __future__ import annotations

import copy

import pytest
import torch
import torch._dynamo.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from tests.nn.linears import mask_of, masked_linear, master_of
from tests.nn.two_four import random_mask
from tests.nn.unpacked_route import Unpacked
from tmask.errors import InvalidMaskError, InvalidProblemError
from tmask.nn import Periodic, sparsify
from tmask.nn.packing import attaching, copies, routes, verification
from tmask.nn.packing.operators import packed_linear, packed_product

TOLERANCE = 2e-2  # of the largest entry; bfloat16 keeps 8 bits


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
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE * float(other.abs().max() + 1e-6))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gradient", ["straight-through", "masked"])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_those_of_the_masked_layer(route, dtype, gradient, bias):
    _, device = route
    layer = masked_linear(device=device, dtype=dtype, gradient=gradient, bias=bias)
    x = torch.randn(2, 13, 128, device=device).to(dtype)
    upstream = torch.randn(2, 13, 64, device=device).to(dtype)
    expected = run(layer, x, upstream)
    attaching.attach(layer)
    ours = run(layer, x, upstream)
    assert_close(ours, expected)
    assert ours[2].ne(0).logical_and(~mask_of(layer)).any() == (gradient == "straight-through")


@settings(max_examples=25)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(0, 40), st.integers(0, 999))
def test_any_shape_and_count_of_tokens(out, into, count, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(routes.ROUTES, "unpacked", Unpacked())
        layer = masked_linear(32 * out, 32 * into, seed=seed)
        x, upstream = torch.randn(count, 32 * into).bfloat16(), torch.randn(count, 32 * out).bfloat16()
        expected = run(layer, x, upstream)
        attaching.attach(layer)
        ours = run(layer, x, upstream)
    for one, other in zip(ours, expected, strict=True):
        assert one.shape == other.shape
        if other.numel():
            torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2 * float(other.abs().max()))


@pytest.mark.parametrize("x", [torch.ones(128), torch.ones(1, 128), torch.ones(2, 0, 128), torch.ones(128, 3).t()])
def test_inputs_of_any_rank_and_strides(unpacked, x):
    layer = masked_linear(bias=False)
    expected = layer(x.bfloat16())
    attaching.attach(layer)
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
    attaching.attach(layer)
    with torch.autocast(device.type, torch.bfloat16):
        ours = run(layer, x, upstream)
    assert ours[0].dtype == torch.bfloat16
    assert ours[2].dtype == torch.float32
    assert_close(ours, expected)


def test_float32_without_autocast_is_the_masked_product(unpacked):
    layer = masked_linear(dtype=torch.float32)
    attaching.attach(layer)
    x = torch.randn(4, 128)
    torch.testing.assert_close(layer(x), functional.linear(x, layer.weight, layer.bias), rtol=0, atol=0)
    assert unpacked.products == 0
    with pytest.raises(RuntimeError, match="dtype"):
        layer(x.bfloat16())  # as nn.Linear does


def test_training_follows_the_masked_layer_and_packs_once_a_step(route):
    kind, device = route
    plain = masked_linear(device=device, dtype=torch.float32)
    packed = copy.deepcopy(plain)
    attaching.attach(packed)
    verification.verify(kind, (64, 128), torch.bfloat16, device)
    packs = kind.packs if kind.name == "unpacked" else None
    batches = [torch.randn(24, 128, device=device) for _ in range(9)]
    for layer in (plain, packed):
        optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9, fused=True)
        for step in range(3):
            for x in batches[3 * step : 3 * step + 3]:
                with torch.autocast(device.type, torch.bfloat16):
                    layer(x).float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if layer is packed:
                attaching.refresh(layer)
    # One packing when it was first called, and one for each step: a fused optimizer is noticed by refresh alone.
    assert packs is None or kind.packs - packs == 4
    for ours, theirs in zip(packed.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-3)


def test_changes_in_place_are_noticed_without_refresh(unpacked):
    layer = masked_linear()
    attaching.attach(layer)
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
    attaching.attach(layer)
    plans = unpacked.plans
    with torch.no_grad():
        master_of(layer).mul_(2)
    attaching.refresh(layer)
    assert unpacked.plans == plans
    mask_of(layer).copy_(random_mask(64, 128, 7))
    attaching.refresh(layer)
    assert unpacked.plans == plans + 1
    x = torch.randn(8, 128).bfloat16()
    torch.testing.assert_close(layer(x), functional.linear(x, layer.weight, layer.bias))


def test_backward_uses_what_forward_used(route):
    kind, device = route
    layer = masked_linear(device=device, bias=False)
    attaching.attach(layer)
    x = torch.randn(8, 128, device=device).bfloat16().requires_grad_()
    weight = layer.weight.detach().clone()
    result = layer(x)
    mask_of(layer).copy_(random_mask(64, 128, 5))
    attaching.refresh(layer)
    upstream = torch.randn_like(result)
    if kind.name != "unpacked":  # written where the old ones were, as for a captured graph
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            result.backward(upstream)
        return
    result.backward(upstream)
    torch.testing.assert_close(x.grad, upstream @ weight, rtol=2e-2, atol=0.1)


def test_a_new_mask_is_packed_where_the_old_one_was_by_the_real_routes(route):
    kind, device = route
    layer = masked_linear(device=device)
    attaching.attach(layer)
    x = torch.randn(8, 128, device=device).bfloat16()
    before = attaching.addresses(layer)
    for seed in (5, 6):
        mask_of(layer).copy_(random_mask(64, 128, seed))
        attaching.refresh(layer)
        torch.testing.assert_close(layer(x), functional.linear(x, layer.weight, layer.bias), rtol=2e-2, atol=0.1)
        if kind.name != "unpacked":
            assert attaching.addresses(layer) == before


def test_evaluation_in_inference_mode_before_training(route):
    _, device = route
    layer = masked_linear(device=device, dtype=torch.float32)
    attaching.attach(layer)
    x = torch.randn(8, 128, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        with torch.inference_mode():
            layer(x)
        layer(x.requires_grad_()).sum().backward()
    assert x.grad is not None


def test_frozen_inputs_and_weights_cost_no_product(unpacked):
    layer = masked_linear()
    attaching.attach(layer)
    products = unpacked.products
    layer(torch.randn(8, 128).bfloat16()).sum().backward()
    assert unpacked.products == products + 1  # no gradient of the input
    master_of(layer).requires_grad_(False)
    x = torch.randn(8, 128).bfloat16().requires_grad_()
    layer(x).sum().backward()
    assert unpacked.products == products + 3


def test_compiled_models_follow_attach_and_detach(unpacked):
    layer = masked_linear()
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager")
    x = torch.randn(8, 128).bfloat16()
    expected = compiled(x)
    attaching.attach(layer)
    products = unpacked.products
    torch.testing.assert_close(compiled(x), expected)
    assert unpacked.products == products + 1
    attaching.detach(layer)
    torch.testing.assert_close(compiled(x), expected)
    assert unpacked.products == products + 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_whole_and_valid_after_refresh(route):
    _, device = route
    layer = masked_linear(device=device)
    attaching.attach(layer)
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    x, upstream = torch.randn(8, 128, device=device).bfloat16(), torch.randn(8, 64, device=device).bfloat16()
    for seed in range(3):
        mask_of(layer).copy_(random_mask(64, 128, seed))
        with torch.no_grad():
            master_of(layer).mul_(1.5)
        attaching.refresh(layer)
        expected = run(layer, x, upstream)
        layer.zero_grad()
        inputs = x.clone().requires_grad_()
        result = compiled(inputs)
        result.backward(upstream)
        assert_close([result.detach(), inputs.grad, master_of(layer).grad, layer.bias.grad], expected)
    assert counter.frame_count == 1


def test_packing_is_left_out_of_compiled_graphs(unpacked, monkeypatch):
    compiling = []
    check = attaching.Copies.add

    def noted(*args):
        compiling.append(torch.compiler.is_compiling())
        check(*args)

    monkeypatch.setattr(attaching.Copies, "add", noted)
    layer = masked_linear(dtype=torch.float32)
    attaching.attach(layer)
    torch._dynamo.reset()
    with torch.autocast("cpu", torch.bfloat16):
        torch.compile(layer, backend="aot_eager")(torch.randn(8, 128))
    assert compiling == [False]


def test_packing_is_left_out_where_a_whole_step_is_compiled(unpacked, monkeypatch):
    """With its hooks: torch compiles what is called from a function that it could not compile itself."""
    compiled = []
    convert = torch._dynamo.convert_frame.ConvertFrame.__call__

    def noted(self, frame, *rest, **named):
        compiled.append(frame.f_code.co_name)
        return convert(self, frame, *rest, **named)

    monkeypatch.setattr(torch._dynamo.convert_frame.ConvertFrame, "__call__", noted)
    layer = masked_linear()
    attaching.attach(layer)
    torch._dynamo.reset()

    def step(x):
        loss = layer(x).sum()
        attaching.refresh(layer)
        return loss

    torch.compile(step, backend="eager")(torch.randn(8, 128).bfloat16())
    assert "step" in compiled
    assert not {"_pack", "add", "repack"} & set(compiled)


def test_a_float32_layer_that_was_not_packed_yet_breaks_the_graph_but_compiles(unpacked):
    layer = masked_linear(dtype=torch.float32)
    attaching.attach(layer)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager")
    x = torch.randn(8, 128)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_float32_layer_that_one_batch_has_packed_compiles_whole_and_stays_so(unpacked):
    """What the docs advise: else the first compiled call packs, and its code stays in pieces."""
    layer = masked_linear(dtype=torch.float32)
    attaching.attach(layer)
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    x = torch.randn(8, 128)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
        for seed in range(3):
            mask_of(layer).copy_(random_mask(64, 128, seed))
            attaching.refresh(layer)
            torch.testing.assert_close(compiled(x), layer(x))
    assert counter.frame_count == 1


def test_operators_keep_torchs_rules(route):
    kind, device = route
    mask = random_mask(64, 128).to(device)
    weight = torch.randn(64, 128, device=device, requires_grad=True)
    packed, packed_t = kind.pack(weight.detach().bfloat16(), kind.plan(mask, torch.bfloat16))
    x, bias = (torch.randn(*shape, device=device).bfloat16().requires_grad_() for shape in ((13, 128), (64,)))
    arguments = (x, weight, bias, packed, packed_t, mask, kind.name)
    torch.library.opcheck(torch.ops.tmask.packed_linear.default, arguments)
    torch.library.opcheck(torch.ops.tmask.packed_product.default, (x.detach(), packed, 64, kind.name, None))
    result = packed_linear(*arguments)
    assert result.is_contiguous()  # as the fake implementation says
    torch.testing.assert_close(result, packed_product(x.detach(), packed, 64, kind.name, bias.detach()))


def test_detach_and_deepcopy(unpacked):
    layer = masked_linear()
    keys = list(layer.state_dict())
    attaching.attach(layer)
    assert list(layer.state_dict()) == keys
    twin = copy.deepcopy(layer)
    attaching.detach(layer)
    assert not attaching.attached(layer)
    assert attaching.attached(twin)
    x = torch.randn(8, 128).bfloat16()
    products = unpacked.products
    expected = layer(x)
    assert unpacked.products == products
    torch.testing.assert_close(twin(x), expected)
    assert unpacked.products == products + 1
    with torch.no_grad():
        master_of(twin).mul_(2)
    assert not torch.equal(twin(x), layer(x))
    attaching.detach(layer)  # nothing to undo


def test_attaching_twice_is_a_refresh(unpacked):
    layer = masked_linear()
    attaching.attach(layer)
    packs = unpacked.packs
    with torch.no_grad():
        master_of(layer).mul_(2)
    attaching.attach(layer)
    assert unpacked.packs == packs + 1
    x = torch.randn(8, 128).bfloat16()
    torch.testing.assert_close(layer(x), functional.linear(x, layer.weight, layer.bias))
    attaching.detach(layer)
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
        attaching.attach(layer)
    assert not attaching.attached(layer)
    mask_of(layer).copy_(good)
    attaching.attach(layer)
    mask_of(layer)[row] = False
    with pytest.raises(InvalidMaskError, match=f"row {row}, columns 0 to 3 of the mask keeps 0 of 4"):
        attaching.refresh(layer)


def test_a_mask_of_a_renewal_is_not_looked_at_again_unless_something_else_has_written_to_it(unpacked, monkeypatch):
    """To look is to wait for a GPU, once for each layer."""
    looked = []
    check = copies.check_complete
    monkeypatch.setattr(copies, "check_complete", lambda mask: (looked.append(mask.shape), check(mask))[1])
    layer = nn.Linear(128, 64).bfloat16()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    sparsifier = sparsify(layer, "2:4", schedule=Periodic(every=1), optimizer=optimizer, backend="semi_structured")
    optimizer.step()
    assert sparsifier.steps == 1
    assert not looked
    mask_of(layer).copy_(random_mask(64, 128, 5))
    attaching.refresh(layer)
    assert looked == [(64, 128)]
    mask_of(layer)[3] = True
    with pytest.raises(InvalidMaskError, match="row 3, columns 0 to 3 of the mask keeps 4 of 4"):
        attaching.refresh(layer)


def test_what_cannot_be_attached_is_refused(unpacked):
    with pytest.raises(InvalidProblemError, match=r"only nn\.Linear has a packed product, not Conv2d"):
        attaching.attach(nn.Conv2d(32, 32, 3))
    with pytest.raises(InvalidProblemError, match="has no mask on its weight"):
        attaching.attach(nn.Linear(64, 64))
    with pytest.raises(InvalidProblemError, match="call attach first"):
        attaching.refresh(masked_linear())
    twice = masked_linear()
    nn.utils.parametrize.register_parametrization(twice, "weight", nn.Identity())
    with pytest.raises(InvalidProblemError, match="other parametrizations"):
        attaching.attach(twice)
    with pytest.raises(InvalidProblemError, match="multiples of 32"):
        attaching.attach(masked_linear(64, 48))
    with pytest.raises(InvalidProblemError, match="dtype float64"):
        attaching.attach(masked_linear(dtype=torch.float64))


def test_without_a_gpu_attach_says_so():
    with pytest.raises(InvalidProblemError, match="no sparse kernel runs on a cpu device; use backend 'masked'"):
        attaching.attach(masked_linear())


@pytest.mark.parametrize("gradient", ["straight-through", "masked"])
def test_sparsify_trains_alike_on_packed_and_on_masked_weights(route, gradient):
    _, device = route
    losses = {}
    for backend in ("masked", "semi_structured"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(128, 192), nn.GELU(), nn.Linear(192, 64)).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, fused=True)
        schedule = Periodic(every=2, dense_from=8, gradient=gradient)
        sparsifier = sparsify(model, "2:4", solver="patterns", schedule=schedule, optimizer=optimizer, backend=backend)
        assert {row.backend for row in sparsifier.report()} == {backend}
        x, y = torch.randn(40, 128, device=device), torch.randn(40, 64, device=device)
        losses[backend] = []
        for _ in range(10):
            with torch.autocast(device.type, torch.bfloat16):
                loss = functional.mse_loss(model(x).float(), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[backend].append(float(loss.detach()))
    assert losses["masked"][-1] < 0.9 * losses["masked"][0]
    assert losses["semi_structured"] == pytest.approx(losses["masked"], rel=2e-2)

import copy
import math
import shutil

import pytest
import torch
from torch import nn

import tmask
from tests.nn.models import batch, mlp, train
from tmask import nn as tnn
from tmask.nn.mask.parametrization import Masked
from tmask.nn.mask.registration import masked_of
from tmask.nn.mask.terms import Terms

RULES = {"straight-through": tnn.Periodic(gradient="straight-through"), "masked": tnn.Frozen(gradient="masked")}


def gradients(schedule):
    """(mask, gradient of the effective weight, gradient that the master weight received)."""
    layer = nn.Linear(8, 12)
    sparsifier = tnn.sparsify(layer, "2:4", schedule=schedule)
    weight, mask = sparsifier.layers[0].weight, sparsifier.layers[0].masked.mask
    x = batch((5, 8))
    effective = torch.where(mask, weight.detach(), 0).requires_grad_()
    nn.functional.linear(x, effective, layer.bias).square().sum().backward()
    layer(x).square().sum().backward()
    return mask, effective.grad, weight.grad


def test_straight_through_passes_the_dense_gradient_on():
    mask, dense, received = gradients(RULES["straight-through"])
    assert torch.equal(received, dense)
    assert received[~mask].abs().min() > 0


def test_the_masked_rule_stops_it_where_the_mask_prunes():
    mask, dense, received = gradients(RULES["masked"])
    assert torch.equal(received, torch.where(mask, dense, 0))


@pytest.mark.parametrize("rule", RULES)
def test_the_gradient_of_the_input_sees_the_mask(rule):
    layer = nn.Linear(8, 12)
    tnn.sparsify(layer, schedule=RULES[rule])
    x = batch((5, 8)).requires_grad_()
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.detach().sum(0).expand(5, 8))


@pytest.mark.parametrize("rule", RULES)
def test_pruned_entries_are_plus_zero_whatever_the_master_holds(rule):
    layer = nn.Linear(8, 8)
    mask = tnn.sparsify(layer, schedule=RULES[rule]).layers[0].masked.mask
    with torch.no_grad():
        layer.parametrizations.weight.original[~mask] = torch.tensor([-0.0, math.inf, math.nan, -1.0] * 8)
    pruned = layer.weight[~mask]
    assert torch.equal(pruned, torch.zeros(32))
    assert not torch.signbit(pruned).any()


@pytest.mark.parametrize("rule", RULES)
def test_functorch_takes_the_layer(rule):
    model = mlp()
    tnn.sparsify(model, schedule=RULES[rule])
    parameters = dict(model.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(model, parameters, (x,)).square().sum()

    x = batch((3, 2, 8))
    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for i in range(3):
        for name, grad in torch.func.grad(loss)(parameters, x[i]).items():
            torch.testing.assert_close(each[name][i], grad)


@pytest.mark.parametrize("rule", RULES)
def test_forward_mode_gives_the_derivatives_of_backward(rule):
    model = mlp()
    tnn.sparsify(model, schedule=RULES[rule])
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tangents = {name: batch(tuple(parameter.shape), 5) for name, parameter in parameters.items()}
    x = batch((3, 8))

    def loss(parameters, x):
        return torch.func.functional_call(model, parameters, (x,)).square().sum()

    _, forward = torch.func.jvp(loss, (parameters, x), (tangents, x))
    backward, by_x = torch.func.grad(loss, (0, 1))(parameters, x)
    expected = sum((backward[name] * tangents[name]).sum() for name in tangents) + (by_x * x).sum()
    torch.testing.assert_close(forward, expected)
    each = torch.func.vmap(lambda row: torch.func.jvp(loss, (parameters, row), (tangents, row))[1])(x)
    torch.testing.assert_close(each.sum(), torch.func.jvp(loss, (parameters, x), (tangents, x))[1])


def test_assigning_a_weight_sets_the_dense_master():
    layer = nn.Linear(8, 8)
    sparsifier = tnn.sparsify(layer)
    master, new = sparsifier.layers[0].weight, batch((8, 8), 3)
    layer.weight = new
    assert sparsifier.layers[0].weight is master
    assert torch.equal(master, new)
    assert torch.equal(layer.weight, torch.where(sparsifier.layers[0].masked.mask, new, 0))


def test_the_parameter_object_and_its_optimizer_survive():
    model = mlp()
    weights = [model[0].weight, model[2].weight]
    sparsifier = tnn.sparsify(model)
    assert [layer.weight for layer in sparsifier.layers] == weights
    assert all(layer.weight is weight for layer, weight in zip(sparsifier.layers, weights, strict=True))


def test_a_deep_copy_is_independent():
    model = mlp()
    sparsifier = tnn.sparsify(model, schedule=tnn.Periodic(every=1))
    twin = copy.deepcopy(model)
    before = masked_of(twin[0], "weight").mask.clone()
    train(model, torch.optim.SGD(model.parameters(), 1.0), 3)
    sparsifier.step()
    assert not torch.equal(masked_of(model[0], "weight").mask, before)
    assert torch.equal(masked_of(twin[0], "weight").mask, before)
    tnn.export(twin)
    assert type(twin[0]) is nn.Linear
    assert torch.equal(model[0].weight, model[0].weight)  # its property is still there
    model(batch((2, 8)))
    sparsifier.remove()
    assert type(model[0]) is nn.Linear


def test_a_change_of_mask_between_forward_and_backward_is_refused():
    layer = nn.Linear(8, 8)
    sparsifier = tnn.sparsify(layer, schedule=tnn.Frozen())
    loss = layer(batch((2, 8))).sum()
    sparsifier.layers[0].masked.mask.logical_not_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_it_says_what_it_is():
    assert repr(Masked(torch.ones(4, 4), Terms(tmask.Pattern(2, 4)), "masked")) == "Masked(2:4, gradient=masked)"


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_models_have_no_graph_break_and_the_same_gradients(rule, backend):
    model = mlp()
    sparsifier = tnn.sparsify(model, schedule=RULES[rule])
    x = batch((4, 8))
    torch._dynamo.reset()
    assert torch._dynamo.explain(model)(x).graph_break_count == 0
    compiled = torch.compile(model, backend=backend, fullgraph=True)

    def gradient(call):
        model.zero_grad()
        call(x).square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    for _ in range(2):  # with the first masks, and after they have changed in place
        for eager, traced in zip(gradient(model), gradient(compiled), strict=True):
            torch.testing.assert_close(traced, eager)
        layer = sparsifier.layers[0]
        layer.masked.mask.copy_(layer.masked.mask.roll(1, 0))


@pytest.mark.nightly  # the compiler takes half a minute
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_generated_code_gives_the_same_step():
    model = nn.Linear(8, 8)
    twin = copy.deepcopy(model)
    losses = []
    for one in (model, twin):
        optimizer = torch.optim.SGD(one.parameters(), 0.5)
        tnn.sparsify(one, schedule=tnn.Periodic(every=1), optimizer=optimizer)
        call = torch.compile(one, fullgraph=True) if one is model else one
        losses.append(train(call, optimizer, 3))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_hooks_that_wait_for_a_gradient_outlive_sparsify():
    model = mlp()
    weight = model[0].weight
    accumulator = weight.view_as(weight).grad_fn.next_functions[0][0]  # what DDP keeps its hooks on
    calls = []
    accumulator.register_hook(lambda *gradients: calls.append("accumulated"))
    tnn.sparsify(model)
    model(batch((2, 8))).sum().backward()
    assert calls == ["accumulated"]
    assert "set_" not in vars(weight)

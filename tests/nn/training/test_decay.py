import pytest
import torch

import tmask
from tests.nn.models import batch, mlp, train
from tmask import nn as tnn

DYNAMIC = tnn.Periodic(every=100)
RATE, LR = 0.3, 0.1


def stepped(decay, make, steps=1, scaler=None):
    """The model, its weights and masks before, and the sparsifier, after some steps on one batch."""
    model = mlp()
    optimizer = make(model.parameters())
    sparsifier = tnn.sparsify(model, schedule=DYNAMIC, optimizer=optimizer, decay=decay)
    before = [layer.weight.detach().clone() for layer in sparsifier.layers]
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(batch((4, 8))).square().mean()
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    return before, sparsifier


def sgd(parameters):
    return torch.optim.SGD(parameters, LR)


@pytest.mark.parametrize("through", ["gradient", "weight"])
def test_under_sgd_both_forms_shrink_what_is_masked_out(through):
    before, plain = stepped(None, sgd)
    _, decayed = stepped(tnn.MaskedDecay(RATE, through), sgd)
    for old, a, b in zip(before, plain.layers, decayed.layers, strict=True):
        expected = a.weight.detach() - LR * RATE * torch.where(a.masked.mask, 0, old)
        torch.testing.assert_close(b.weight.detach(), expected)
        assert torch.equal(a.weight[a.masked.mask], b.weight[a.masked.mask])


def test_an_adaptive_optimizer_normalises_the_decay_through_the_gradient_alone():
    make = lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=0.0)  # noqa: E731
    before, plain = stepped(None, make)
    _, gradient = stepped(tnn.MaskedDecay(1e3, "gradient"), make)
    _, weight = stepped(tnn.MaskedDecay(RATE, "weight"), make)
    for old, a, b, c in zip(before, plain.layers, gradient.layers, weight.layers, strict=True):
        out = ~a.masked.mask
        # Adam's first step is lr * sign(gradient), and this decay outweighs every gradient
        torch.testing.assert_close(b.weight[out], (old - 1e-3 * old.sign())[out], atol=1e-5, rtol=0)
        torch.testing.assert_close(c.weight[out], (a.weight - 1e-3 * RATE * old)[out])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("through", ["gradient", "weight"])
def test_the_loss_scale_does_not_touch_the_decay(through, fused):
    def make(parameters):
        return torch.optim.SGD(parameters, LR, fused=fused)

    decay = tnn.MaskedDecay(RATE, through)
    _, plain = stepped(decay, make)
    _, scaled = stepped(decay, make, scaler=torch.amp.GradScaler("cpu", init_scale=4096.0))
    for a, b in zip(plain.layers, scaled.layers, strict=True):
        torch.testing.assert_close(a.weight, b.weight)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("through", ["gradient", "weight"])
def test_a_skipped_step_decays_nothing(through, fused):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), LR, fused=fused)
    sparsifier = tnn.sparsify(model, schedule=DYNAMIC, optimizer=optimizer, decay=tnn.MaskedDecay(RATE, through))
    before = [layer.weight.detach().clone() for layer in sparsifier.layers]
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(batch((4, 8))).square().mean() * float("inf")).backward()
    scaler.step(optimizer)
    assert all(torch.equal(old, layer.weight) for old, layer in zip(before, sparsifier.layers, strict=True))
    assert sparsifier.steps == 0


def test_it_acts_once_per_step_not_once_per_micro_batch():
    results = []
    for pieces in (1, 4):
        model = mlp()
        optimizer = sgd(model.parameters())
        sparsifier = tnn.sparsify(model, schedule=DYNAMIC, optimizer=optimizer, decay=tnn.MaskedDecay(RATE))
        for piece in batch((8, 8)).chunk(pieces):
            (model(piece).square().mean() / pieces).backward()
        optimizer.step()
        results.append([layer.weight.detach() for layer in sparsifier.layers])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("through", ["gradient", "weight"])
def test_an_optimizer_that_maximizes_decays_too(through):
    results = []
    for sign in (1, -1):
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), LR, maximize=sign < 0)
        sparsifier = tnn.sparsify(model, schedule=DYNAMIC, optimizer=optimizer, decay=tnn.MaskedDecay(RATE, through))
        (sign * model(batch((4, 8))).square().mean()).backward()
        optimizer.step()
        results.append([layer.weight for layer in sparsifier.layers])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_through_the_weight_it_acts_once_however_often_the_closure_is_called():
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), 0.1, max_iter=6)
    decay = tnn.MaskedDecay(RATE, "weight")
    sparsifier = tnn.sparsify(model, schedule=tnn.Frozen(), optimizer=optimizer, decay=decay)  # no other change
    out = [(~layer.masked.mask, layer.weight.detach().clone()) for layer in sparsifier.layers]
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = model(batch((4, 8))).square().mean()
        loss.backward()
        calls.append(loss)
        return loss

    for step in (1, 2):
        optimizer.step(closure)
        for (pruned, before), layer in zip(out, sparsifier.layers, strict=True):
            torch.testing.assert_close(layer.weight[pruned], before[pruned] * (1 - 0.1 * RATE) ** step)
    assert len(calls) > 4


@pytest.mark.parametrize("positional", [True, False])
def test_a_closure_is_followed_by_the_decay(positional):
    _, expected = stepped(tnn.MaskedDecay(RATE), sgd)
    model = mlp()
    optimizer = sgd(model.parameters())
    sparsifier = tnn.sparsify(model, schedule=DYNAMIC, optimizer=optimizer, decay=tnn.MaskedDecay(RATE))

    def closure():
        optimizer.zero_grad()
        loss = model(batch((4, 8))).square().mean()
        loss.backward()
        return loss

    loss = optimizer.step(closure) if positional else optimizer.step(closure=closure)
    assert loss.item() > 0
    for a, b in zip(expected.layers, sparsifier.layers, strict=True):
        assert torch.equal(a.weight, b.weight)


def test_nothing_decays_in_a_dense_phase():
    model, twin = mlp(), mlp()
    for one, decay in ((model, tnn.MaskedDecay(RATE)), (twin, None)):
        optimizer = sgd(one.parameters())
        tnn.sparsify(one, schedule=tnn.Periodic(begin=5), optimizer=optimizer, decay=decay)
        train(one, optimizer, 4)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_without_an_optimizer_to_watch_the_decay_must_be_called():
    model = mlp()
    optimizer = sgd(model.parameters())
    sparsifier = tnn.sparsify(model, schedule=DYNAMIC, decay=tnn.MaskedDecay(RATE))
    model(batch((4, 8))).square().mean().backward()
    for _ in range(2):
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.step()
    with pytest.raises(tmask.InvalidProblemError, match="call before_step"):
        sparsifier.step()
    _, expected = stepped(tnn.MaskedDecay(RATE), sgd)
    assert not torch.equal(expected.layers[0].weight, sparsifier.layers[0].weight)


def test_weights_without_a_gradient_are_left_alone():
    model = mlp()
    optimizer = sgd(model.parameters())
    sparsifier = tnn.sparsify(model, schedule=DYNAMIC, optimizer=optimizer, decay=tnn.MaskedDecay(RATE))
    before = sparsifier.layers[0].weight.detach().clone()
    optimizer.step()
    assert torch.equal(sparsifier.layers[0].weight, before)


@pytest.mark.parametrize("rate", [0, -1.0, float("nan"), float("inf"), "0.1", True])
def test_the_rate_is_checked(rate):
    with pytest.raises(tmask.InvalidProblemError, match="rate must be a number above 0"):
        tnn.MaskedDecay(rate)


def test_the_form_is_checked():
    with pytest.raises(tmask.InvalidProblemError, match="through must be"):
        tnn.MaskedDecay(1.0, "weights")


def test_an_optimizer_without_a_learning_rate_cannot_scale_the_decay():
    model = mlp()
    optimizer = sgd(model.parameters())
    sparsifier = tnn.sparsify(model, schedule=DYNAMIC, decay=tnn.MaskedDecay(RATE, "weight"))
    model(batch((4, 8))).square().mean().backward()
    optimizer.param_groups[0]["lr"] = None
    with pytest.raises(tmask.InvalidProblemError, match="needs a learning rate, which SGD does not have"):
        sparsifier.before_step(optimizer)

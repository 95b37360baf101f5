"""After every step of any optimizer, forward and backward multiply with a weight that satisfies the mask."""

import itertools

import pytest
import torch
from torch import nn

import tmask
from tests.nn.models import batch, mlp, train
from tmask import nn as tnn

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "sgd, momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "sgd, foreach": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, foreach=True),
    "sgd, fused": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, foreach=False),
    "adamw, foreach": lambda p: torch.optim.AdamW(p, 0.01, foreach=True),
    "adamw, fused": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
    "lbfgs": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=3),
}


def check(sparsifier, model):
    """The effective weights keep to transposable masks, and are what the layers multiply with."""
    x = batch((3, 8), 99)
    first, second = (layer.weight.where(layer.masked.mask, 0) for layer in sparsifier.layers)
    expected = nn.functional.linear(torch.tanh(nn.functional.linear(x, first, model[0].bias)), second, model[2].bias)
    assert torch.equal(model(x), expected)
    for layer in sparsifier.layers:
        tmask.check_mask(layer.masked.mask, layer.pattern)


@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
@pytest.mark.parametrize("schedule", [tnn.Frozen(), tnn.Periodic(every=2)], ids=["frozen", "periodic"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_effective_weights_satisfy_the_mask_after_every_step(name, schedule, pattern):
    model = mlp()
    optimizer = OPTIMIZERS[name](model.parameters())
    sparsifier = tnn.sparsify(model, pattern, schedule=schedule, optimizer=optimizer)

    def closure():
        optimizer.zero_grad()
        loss = model(batch((4, 8))).square().mean()
        loss.backward()
        return loss

    losses = []
    for step in range(1, 6):
        before = [layer.weight.detach().clone() for layer in sparsifier.layers]
        losses.append(optimizer.step(closure).item())
        assert sparsifier.steps == step
        assert not any(torch.equal(old, layer.weight) for old, layer in zip(before, sparsifier.layers, strict=True))
        check(sparsifier, model)
    assert losses[-1] < losses[0]


def test_a_renewal_takes_the_masks_of_the_weights_that_the_optimizer_left():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 5.0)
    sparsifier = tnn.sparsify(model, schedule=tnn.Periodic(every=1), optimizer=optimizer)
    for step in range(4):
        train(model, optimizer, 1, step)
        for layer in sparsifier.layers:
            assert torch.equal(layer.masked.mask, tmask.solve(layer.weight, "2:4").mask)


def test_frozen_masks_never_change():
    model = mlp()
    sparsifier = tnn.sparsify(model)
    masks = [layer.masked.mask.clone() for layer in sparsifier.layers]
    optimizer = torch.optim.SGD(model.parameters(), 5.0)
    for step in range(5):
        train(model, optimizer, 1, step)
        assert sparsifier.step() is None
    assert all(torch.equal(a, layer.masked.mask) for a, layer in zip(masks, sparsifier.layers, strict=True))


def test_micro_batches_add_up_to_the_whole_batch():
    whole, parts = mlp(), mlp()
    for model, pieces in ((whole, 1), (parts, 4)):
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        sparsifier = tnn.sparsify(model, schedule=tnn.Periodic(every=2), optimizer=optimizer)
        for step in range(6):
            optimizer.zero_grad()
            masks = [layer.masked.mask.clone() for layer in sparsifier.layers]
            for piece in batch((8, 8), step).chunk(pieces):
                (model(piece).square().mean() / pieces).backward()
                assert all(torch.equal(m, la.masked.mask) for m, la in zip(masks, sparsifier.layers, strict=True))
            optimizer.step()
        assert sparsifier.steps == 6
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_gradient_scaler_skips_does_not_count(fused):
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, fused=fused)
    sparsifier = tnn.sparsify(model, schedule=tnn.Periodic(every=1), optimizer=optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    steps = []
    for poison in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(batch((4, 8))).float().square().mean() * poison
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        steps.append(sparsifier.steps)
        check(sparsifier, model)
    assert steps == [1, 1, 2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_every_dtype(dtype):
    model = mlp(dtype=dtype)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsifier = tnn.sparsify(model, schedule=tnn.Periodic(every=1), optimizer=optimizer)
    for step in range(2):
        optimizer.zero_grad()
        model(batch((4, 8), step, dtype)).square().mean().backward()
        optimizer.step()
        assert all(layer.weight.dtype == layer.weight.grad.dtype == dtype for layer in sparsifier.layers)
        assert model[0].weight.dtype == dtype


def test_density_falls_and_comes_back():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = tnn.Periodic(every=2, begin=2, ramp=6, dense_from=12)
    sparsifier = tnn.sparsify(model, "1:4", schedule=schedule, optimizer=optimizer)
    assert sparsifier.report()[0].retained is None
    kept = []
    for step in range(14):
        kept.append(model[0].weight.count_nonzero().item() / 128)
        train(model, optimizer, 1, step)
    assert kept == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 1, 1]
    assert [len(list(same)) for _, same in itertools.groupby(kept)] == [4, 4, 4, 2]
    row = sparsifier.report()[0]
    assert (row.step, row.retained, row.gap) == (12, 1, 0)


def test_convolutions_train():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsifier = tnn.sparsify(model, schedule=tnn.Periodic(every=1), optimizer=optimizer)
    for step in range(3):
        optimizer.zero_grad()
        model(batch((2, 4, 6, 6), step)).square().mean().backward()
        optimizer.step()
        for layer in sparsifier.layers:
            tmask.check_mask(layer.masked.mask, "2:4", groups=layer.groups)
    assert (model[2].weight != 0).sum(0).eq(4).all()  # 2 of 4 in each of two groups, at every kernel position

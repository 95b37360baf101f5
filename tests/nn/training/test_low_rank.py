"""Lazy low-rank adapters: nothing before they begin, a product of thin matrices after; merged, saved, refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.nn.models import mlp
from tmask.errors import InvalidProblemError
from tmask.nn import Periodic, add_low_rank, export, sparsify


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(begin=2, rank=3, seed=0):
    model = mlp(seed)
    sparsifier = sparsify(model, "2:4", schedule=Periodic(every=2))
    adapters = add_low_rank(sparsifier, rank, begin=begin)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    sparsifier.watch(optimizer)
    return model, sparsifier, adapters, optimizer


def train(model, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        model(drawn(4, 8, seed=step)).square().mean().backward()
        optimizer.step()


def test_they_do_nothing_before_they_begin_and_learn_after():
    model, _, adapters, optimizer = made()
    x = drawn(4, 8)
    assert adapters.layers == ("0.weight", "2.weight")
    first = [p.detach().clone() for p in adapters.parameters()]
    train(model, optimizer, range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, adapters.parameters(), strict=True))
    before = model(x)
    train(model, optimizer, range(2, 5))
    assert not any(torch.equal(a, b) for a, b in zip(first, adapters.parameters(), strict=True))
    assert not torch.equal(model(x), before)
    low = model[0].low_rank
    wanted = nn.functional.linear(x, model[0].weight + low.up @ low.down, model[0].bias)
    assert torch.allclose(model[0](x), wanted, atol=1e-6)


def test_at_the_step_where_they_begin_the_model_computes_what_it_did():
    model, _, _, optimizer = made(begin=1)
    twin, _, twins, other = made(begin=1)
    twins.remove()
    for one, its in ((model, optimizer), (twin, other)):
        train(one, its, range(1))
    assert model[0].low_rank.active
    assert torch.equal(model(drawn(4, 8)), twin(drawn(4, 8)))


def test_merged_into_an_exported_model():
    model, sparsifier, adapters, optimizer = made()
    train(model, optimizer, range(5))
    x = drawn(4, 8)
    wanted = model(x)
    with pytest.raises(InvalidProblemError, match=r"'0\.weight' has its mask still"):
        adapters.merge()
    export(model)
    sparsifier.remove()
    assert torch.allclose(model(x), wanted, atol=1e-6)  # a sparse weight and an adapter
    adapters.merge()
    assert torch.allclose(model(x), wanted, atol=1e-6)  # a dense weight
    assert set(model.state_dict()) == set(mlp().state_dict())


def test_a_resumed_run_goes_on_with_them():
    model, sparsifier, _, optimizer = made()
    train(model, optimizer, range(4))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), sparsifier.state_dict()))
    train(model, optimizer, range(4, 8))
    other, resumed, _, again = made(seed=1)
    assert not other[0].low_rank.active
    for part, state in zip((other, again, resumed), saved, strict=True):
        part.load_state_dict(state)
    assert other[0].low_rank.active
    train(other, again, range(4, 8))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_deep_copy_has_its_own():
    model, _, _, optimizer = made(begin=0)
    train(model, optimizer, range(2))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        model[0].low_rank.up.zero_()
    assert not torch.equal(twin[0](drawn(4, 8)), model[0](drawn(4, 8)))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rank": 0, "begin": 1}, "rank must be an integer of at least 1"),
        ({"rank": 2, "begin": -1}, "begin must be an integer of at least 0"),
        ({"rank": 9, "begin": 1}, "rank 9: layer '0.weight' is 16 x 8, of rank 8 at most"),
    ],
)
def test_misuse_is_refused(options, text):
    with pytest.raises(InvalidProblemError, match=text):
        add_low_rank(sparsify(mlp(), "2:4"), **options)


def test_twice_is_refused_and_so_are_models_without_linear_layers():
    sparsifier = sparsify(mlp(), "2:4")
    add_low_rank(sparsifier, 2, begin=0)
    with pytest.raises(InvalidProblemError, match="has something under the name 'low_rank' already"):
        add_low_rank(sparsifier, 2, begin=0)
    with pytest.raises(InvalidProblemError, match=r"no masked layer is an nn\.Linear"):
        add_low_rank(sparsify(nn.Sequential(nn.Conv2d(8, 8, 3)), "2:4"), 2, begin=0)

"""Backend "auto" chooses once more for the tokens that a layer's first batch has."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn

from tmask import nn as tnn
from tmask.nn.packing import attaching, first_batch, payoff
from tmask.nn.packing.first_batch import FirstBatch


@pytest.fixture
def asked(unpacked, monkeypatch) -> list[int]:
    """For how many tokens was measured; packed products are faster from 100 tokens on, but for the 8192 of nobody."""
    seen: list[int] = []

    def pays(shape, dtype, device, tokens, graphs):
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
        seen.append(tokens)
        return 100 <= tokens < payoff.TOKENS, f"measured with {tokens} tokens"

    monkeypatch.setattr(payoff, "pays", pays)
    return seen


def model_and_optimizer(**settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32)).to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer, tnn.sparsify(model, "2:4", backend="auto", optimizer=optimizer, **settings)


def train(model, optimizer, *shape):
    model(torch.ones(*shape, 64, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()


def test_the_first_batch_decides_once(asked, caplog):
    model, optimizer, sparsifier = model_and_optimizer()
    (layer,) = sparsifier.layers
    assert layer.backend == "masked"
    with caplog.at_level(logging.INFO, "tmask"):
        train(model, optimizer, 4, 32)
    assert asked[-1] == 128
    assert set(asked[:-1]) == {payoff.TOKENS}
    assert (layer.backend, layer.reason) == ("semi_structured", "measured with 128 tokens")
    assert attaching.attached(model[0])
    (record,) = [record for record in caplog.records if "first batch" in record.message]
    assert record.message == (
        "layer '0.weight' goes from 'masked' to backend 'semi_structured', for the 128 tokens of its first batch"
    )
    count = len(asked)
    train(model, optimizer, 1)
    assert len(asked) == count, "batches to come are not looked at"
    assert layer.backend == "semi_structured"
    assert not model[0]._forward_pre_hooks


def test_nothing_changes_between_a_forward_pass_and_the_step(asked):
    model, _, sparsifier = model_and_optimizer()
    model(torch.ones(128, 64, dtype=torch.bfloat16))
    assert sparsifier.layers[0].backend == "masked"
    assert 128 not in asked


def test_a_renewal_chooses_too(asked):
    model, optimizer, sparsifier = model_and_optimizer(schedule=tnn.Periodic(every=1))
    train(model, optimizer, 128)
    assert sparsifier.last_renewal.step == 1
    assert sparsifier.layers[0].backend == "semi_structured"


def test_tokens_that_are_given_are_taken(asked):
    model, optimizer, _ = model_and_optimizer(tokens=64)
    assert not model[0]._forward_pre_hooks
    train(model, optimizer, 128)
    assert set(asked) == {64}


@pytest.mark.parametrize("backend", ["masked", "semi_structured"])
def test_a_backend_by_name_looks_at_nothing(asked, backend):
    model = nn.Sequential(nn.Linear(64, 32)).to(torch.bfloat16)
    tnn.sparsify(model, "2:4", backend=backend)
    assert not model[0]._forward_pre_hooks
    assert asked == []


def test_a_layer_that_cannot_be_packed_is_not_watched():
    model = nn.Sequential(nn.Linear(64, 32)).to(torch.bfloat16)
    tnn.sparsify(model, "2:4", backend="auto")  # there is no route on a CPU
    assert not model[0]._forward_pre_hooks


def test_evaluation_capture_and_compiled_code_are_not_looked_at(monkeypatch):
    module, x = nn.Linear(8, 4), torch.ones(3, 5, 8)
    seen = FirstBatch(module)
    with torch.no_grad():
        module(x)
    module.eval()(x)
    module.train()
    with monkeypatch.context() as patch:
        patch.setattr(first_batch, "being_captured", lambda: True)
        module(x)
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        module(x)
    module(x[:0])
    assert seen.tokens is None
    module(x)
    assert seen.tokens == 15
    module(x[0])
    assert seen.tokens == 15


def test_a_capture_waits_for_the_choice(asked, monkeypatch):
    model, optimizer, sparsifier = model_and_optimizer()
    monkeypatch.setattr("tmask.nn.layers.layer.being_captured", lambda: True)
    train(model, optimizer, 128)
    assert sparsifier.layers[0].backend == "masked"


def test_a_copy_looks_for_itself_and_removal_ends_it(asked):
    model, _, sparsifier = model_and_optimizer()
    twin, other = copy.deepcopy((model, sparsifier))
    twin(torch.ones(128, 64, dtype=torch.bfloat16))
    assert sparsifier.layers[0]._first_batch.tokens is None
    assert other.layers[0]._first_batch.tokens == 128
    sparsifier.remove()
    assert not model[0]._forward_pre_hooks

"""Whoever forgets to tell of steps is told, once."""

import warnings

import pytest
import torch

from tests.nn.models import mlp, train
from tmask import nn as tnn

FORGOTTEN = r"told of no step, so that Periodic\(every=4.*optimizer=.*sparsifier.step\(\)"


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.1)


def test_masks_that_are_never_renewed_are_told_of_once_after_the_first_period():
    model = mlp()
    sparsifier = tnn.sparsify(model, schedule=tnn.Periodic(every=4))
    optimizer = sgd(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, 4)
    with pytest.warns(UserWarning, match=FORGOTTEN) as told:
        train(model, optimizer, 16)
    assert len(told) == 1
    assert sparsifier.metrics()["step"] == 0


@pytest.mark.filterwarnings("error")
def test_whoever_counts_steps_is_told_nothing():
    watched, counted, frozen, late = (mlp() for _ in range(4))
    optimizer = sgd(watched)
    tnn.sparsify(watched, schedule=tnn.Periodic(every=4), optimizer=optimizer)
    train(watched, optimizer, 9)
    sparsifier = tnn.sparsify(counted, schedule=tnn.Periodic(every=4))
    optimizer = sgd(counted)
    for step in range(9):
        train(counted, optimizer, 1, step)
        sparsifier.step()
    tnn.sparsify(frozen)
    train(frozen, sgd(frozen), 9)
    sparsifier = tnn.sparsify(late, schedule=tnn.Periodic(every=4))
    sparsifier.watch(sgd(late))


@pytest.mark.filterwarnings("error")
def test_gradients_that_are_only_added_up_are_no_forgotten_steps():
    model = mlp()
    sparsifier = tnn.sparsify(model, schedule=tnn.Periodic(every=4))
    for _ in range(20):
        model(torch.ones(2, 8)).sum().backward()
    sparsifier.remove()

"""Whoever forgets to tell of steps is told, once."""

import copy
import pickle
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


def trained(steps=3, **options):
    """A model that was trained for less than a period, and nobody was told of a step."""
    model = mlp()
    sparsifier = tnn.sparsify(model, schedule=tnn.Periodic(every=4, **options))
    train(model, sgd(model), steps)
    return model, sparsifier


@pytest.mark.parametrize("export", [tnn.export, tnn.export_state_dict])
def test_export_tells_of_masks_that_were_never_renewed(export):
    model, sparsifier = trained()
    with pytest.warns(UserWarning, match=f"^export: weights were trained for 3 backward passes.*{FORGOTTEN}"):
        export(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparsifier.remove()  # who was told once is not told again


def test_export_of_a_copy_tells_too():
    model, _ = trained()
    twin = copy.deepcopy(model)
    with pytest.warns(UserWarning, match=FORGOTTEN):
        tnn.export(twin)
    with pytest.warns(UserWarning, match=FORGOTTEN):  # and of the model itself
        tnn.export(model)


def test_export_of_a_model_from_a_pickle_tells_too():
    model, _ = trained()
    with pytest.warns(UserWarning, match=FORGOTTEN):
        pickle.loads(pickle.dumps(model[0].parametrizations.weight[0].reminder)).tell("export")


def test_a_watched_optimizer_that_never_steps_is_told_of():
    model = mlp()
    sparsifier = tnn.sparsify(model, schedule=tnn.Periodic(every=4), optimizer=sgd(model))
    with pytest.warns(UserWarning, match="the optimizer that trains the model"):
        train(model, sgd(model), 9)  # another one
    assert sparsifier.metrics()["step"] == 0


@pytest.mark.filterwarnings("error")
def test_export_tells_nothing_of_training_that_was_told_of():
    model = mlp()
    sparsifier = tnn.sparsify(model, schedule=tnn.Periodic(every=40))
    optimizer = sgd(model)
    for step in range(3):
        train(model, optimizer, 1, step)
        sparsifier.step()
    tnn.export(copy.deepcopy(model))
    tnn.export(model)


@pytest.mark.filterwarnings("error")
def test_export_tells_nothing_where_nothing_was_trained():
    model = mlp()
    tnn.sparsify(model, schedule=tnn.Periodic(every=4))
    model.load_state_dict(
        {name: tensor + 1 if "original" in name else tensor for name, tensor in model.state_dict().items()}
    )
    model(torch.ones(2, 8)).sum().backward()
    tnn.export(model)


@pytest.mark.filterwarnings("error")
def test_a_step_with_many_passes_is_told_of_in_time():
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=10)
    tnn.sparsify(model, schedule=tnn.Periodic(every=4), optimizer=optimizer)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(2, 8)).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)

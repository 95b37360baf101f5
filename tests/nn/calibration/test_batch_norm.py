"""Recomputed statistics against those of all data at once."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.nn.pruning_models import conv_net, images, rows
from tmask.errors import InvalidProblemError
from tmask.nn import recalibrate


def full_batch(model, data):
    """What training mode makes of all data in one batch, without momentum."""
    reference = copy.deepcopy(model)
    for module in reference.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    with torch.no_grad():
        reference(torch.cat(data))
    return reference


def test_exact_equals_the_statistics_of_all_data_at_once():
    model, data = conv_net(), images(44, 16)  # batches of different size
    reference = full_batch(model, data)
    assert recalibrate(model, data, exact=True) == 2
    # Training normalises by a population's variance, evaluation by the unbiased one, a 2816th larger.
    for found, expected in ((model.bn0, reference.bn0), (model.bn1, reference.bn1)):
        torch.testing.assert_close(found.running_mean, expected.running_mean, rtol=5e-4, atol=1e-4)
        torch.testing.assert_close(found.running_var, expected.running_var, rtol=1e-3, atol=1e-5)


def test_one_pass_is_exact_for_the_first_and_near_for_those_behind_it():
    model, data = conv_net(), images(44, 16)
    reference = full_batch(model, data)
    recalibrate(model, data)
    torch.testing.assert_close(model.bn0.running_var, reference.bn0.running_var, rtol=1e-4, atol=1e-5)
    assert not torch.equal(model.bn1.running_var, reference.bn1.running_var)
    torch.testing.assert_close(model.bn1.running_var, reference.bn1.running_var, rtol=0.1, atol=0.01)
    one = conv_net()
    recalibrate(one, [torch.cat(data)])
    torch.testing.assert_close(one.bn1.running_var, reference.bn1.running_var, rtol=1e-4, atol=1e-5)


def test_modes_counters_and_weights_stay():
    model = conv_net().train()
    before = copy.deepcopy(model.state_dict())
    recalibrate(model, images())
    assert all(module.training for module in model.modules())
    for name, tensor in model.state_dict().items():
        assert ("running" in name) or torch.equal(tensor, before[name])


def test_without_running_statistics_there_is_nothing_to_do():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert recalibrate(model, images()) == 0


@pytest.mark.parametrize("exact", [False, True])
def test_nan_names_the_batch_norm_and_the_model_stays(exact):
    model, data = conv_net(), images()
    data[1][0, 0, 0, 0] = float("nan")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InvalidProblemError, match="batch norm 'bn0': its inputs hold NaN"):
        recalibrate(model, data, exact=exact)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("size", [1, 4])
def test_small_batches_are_read_exactly_by_themselves(size):
    """Pooled, a batch of one row is normalised to zero by each batch norm."""
    model = with_norms()
    data = rows(60, batch=size)
    exact, pooled = copy.deepcopy(model), copy.deepcopy(model)
    recalibrate(exact, data, exact=True)
    recalibrate(pooled, data, exact=False)
    recalibrate(model, data)
    for found, expected in zip(model.buffers(), exact.buffers(), strict=True):
        assert torch.equal(found, expected)
    assert not torch.allclose(pooled[4].running_var, exact[4].running_var, rtol=0.1)


def test_large_batches_take_one_pass():
    one, pooled = with_norms(), with_norms()
    data = rows(420, batch=200)  # the last one holds 20
    recalibrate(one, data)
    recalibrate(pooled, data, exact=False)
    for found, expected in zip(one.buffers(), pooled.buffers(), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("exact", [None, True, False])
def test_empty_batches_change_nothing(exact):
    model, reference = with_norms(), with_norms()
    data = rows(200, batch=100)
    recalibrate(reference, data, exact=exact)
    recalibrate(model, [torch.zeros(0, 16), *data, torch.zeros(0, 16)], exact=exact)
    for found, expected in zip(model.buffers(), reference.buffers(), strict=True):
        assert torch.equal(found, expected)
    before = copy.deepcopy(model.state_dict())
    recalibrate(model, [torch.zeros(0, 16)], exact=exact)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def with_norms():
    torch.manual_seed(0)
    layers = [nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16)]
    return nn.Sequential(*layers).eval()

"""Recomputed statistics against those of all data at once."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.nn.pruning_models import conv_net, images
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

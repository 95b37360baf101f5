"""A layer's data as matrices, and their sums: against torch's own layers and plain products."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.nn.pruning_models import conv_net, images, mlp, rows
from tmask.errors import InvalidProblemError
from tmask.nn.calibration import recording
from tmask.nn.calibration.batches import Calibration
from tmask.nn.calibration.gram import Gram
from tmask.nn.calibration.linear_view import LinearView
from tmask.nn.calibration.recording import collect, collect_pair

LAYERS = {
    "linear": (nn.Linear(6, 4), (5, 6)),
    "linear on sequences": (nn.Linear(6, 4), (2, 7, 6)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 6, 5)),
    "one image": (nn.Conv2d(4, 6, 3), (4, 6, 5)),
    "grouped": (nn.Conv2d(4, 6, (3, 2), groups=2, stride=(1, 2)), (3, 4, 6, 5)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 6, 5)),
    "dilated": (nn.Conv2d(4, 6, 3, dilation=2, padding=2), (2, 4, 7, 6)),
    "same": (nn.Conv2d(4, 6, (4, 3), padding="same"), (2, 4, 6, 5)),
    "valid": (nn.Conv2d(4, 6, 3, padding="valid"), (2, 4, 6, 5)),
    "reflected": (nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="reflect"), (2, 4, 6, 5)),
    "circular": (nn.Conv1d(4, 6, 3, padding=2, padding_mode="circular"), (2, 4, 6)),
    "conv3d": (nn.Conv3d(2, 4, (1, 2, 3), padding=(0, 1, 1)), (2, 2, 3, 4, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_matrices_multiply_to_the_layers_output(name):
    layer, shape = LAYERS[name]
    view, x = LinearView(layer), torch.randn(shape)
    y = view.outputs(view.batched(layer(x))).detach()
    product = view.inputs(view.batched(x)) @ view.matrices(layer.weight).transpose(1, 2).detach()
    bias = layer.bias.detach().reshape(view.groups, 1, view.rows)
    torch.testing.assert_close(product + bias, y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(view.tensor(view.matrices(layer.weight)), layer.weight)


def test_position_major_puts_the_inputs_at_one_position_side_by_side():
    layer = nn.Conv2d(4, 2, (1, 3))
    view = LinearView(layer)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(3.0).expand(2, 4, 1, 3))  # the position's number
    assert view.matrices(layer.weight)[0, 0, view.position_major()].tolist() == [0.0] * 4 + [1.0] * 4 + [2.0] * 4


@pytest.mark.parametrize("name", LAYERS)
def test_sums_are_those_of_all_samples(name, monkeypatch):
    monkeypatch.setattr(recording, "_CHUNK", 200)  # several pieces a batch
    layer, shape = LAYERS[name]
    batches = [torch.randn(shape) for _ in range(3)]
    (gram,) = collect(Calibration(batches), layer, {"": LinearView(layer)}).values()
    view = LinearView(layer)
    x = torch.cat([view.inputs(view.batched(b)) for b in batches], 1).double()
    y = x @ view.matrices(layer.weight).transpose(1, 2).detach().double()
    assert gram.samples == x.shape[1]
    torch.testing.assert_close(gram.xx, x.transpose(1, 2) @ x)
    torch.testing.assert_close(gram.x, x.sum(1))
    for found, expected in ((gram.xy, x.transpose(1, 2) @ y), (gram.y, y.sum(1)), (gram.yy, y.square().sum(1))):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # y went through float32


def filled(samples=50, cols=6, outputs=3, seed=0, offset=2.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, samples, cols, generator=generator, dtype=torch.float64) + offset
    y = torch.randn(1, samples, outputs, generator=generator, dtype=torch.float64) - offset
    gram = Gram.zeros(LinearView(nn.Linear(cols, outputs)))
    gram.add(x[:, :20], y[:, :20])
    gram.add(x[:, 20:], y[:, 20:])
    return x, y, gram


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_errors_and_moments_follow_from_the_sums(seed):
    x, y, gram = filled(seed=seed)
    weight = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    fitted = x @ weight.transpose(1, 2)
    torch.testing.assert_close(gram.errors(weight), (fitted - y).square().sum(1))
    mean, variance = gram.moments(weight)
    torch.testing.assert_close(mean, fitted.mean(1))
    torch.testing.assert_close(variance, fitted.var(1, correction=0))
    centred = gram.centred()
    torch.testing.assert_close(
        centred.errors(weight), (fitted - fitted.mean(1) - y + y.mean(1)).square().sum(1), rtol=1e-7, atol=1e-7
    )


def test_a_pair_takes_inputs_of_one_model_and_outputs_of_the_other():
    dense, pruned = mlp(), mlp()
    with torch.no_grad():
        pruned[0].weight[:, ::2] = 0
    data = rows()
    gram = collect_pair(Calibration(data), "2.weight", LinearView(pruned[2]), pruned, dense, 1)
    x = torch.cat([pruned[1](pruned[0](b)) for b in data]).detach().double()
    y = torch.cat([dense[:3](b) for b in data]).detach().double()
    torch.testing.assert_close(gram.xx[0], x.T @ x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gram.xy[0], x.T @ y, rtol=1e-4, atol=1e-4)


def test_a_pair_with_one_model_twice_equals_one_pass():
    model, data = conv_net(), images()
    (one,) = collect(Calibration(data), model, {"conv2": LinearView(model.conv2)}).values()
    other = conv_net()
    two = collect_pair(Calibration(data), "conv2.weight", LinearView(other.conv2), other, model, 1)
    for field in ("xx", "xy", "x", "y", "yy"):
        torch.testing.assert_close(getattr(one, field), getattr(two, field), rtol=1e-5, atol=1e-5)
    assert one.samples == two.samples


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_name_their_layer(bad):
    model, data = mlp(), rows()
    with torch.no_grad():
        model[0].bias[3] = bad
    views = {name: LinearView(model.get_submodule(name)) for name in ("0", "2")}
    with pytest.raises(InvalidProblemError, match="layer '0': its outputs hold NaN"):
        collect(Calibration(data), model, views)
    with pytest.raises(InvalidProblemError, match="layer '2': its inputs hold NaN"):
        collect(Calibration(data), model, {"2": views["2"]})

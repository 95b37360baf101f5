"""Which layers are found, how often they are called, and which batch norm reads them directly."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from tests.nn.pruning_models import conv_net, images, rows
from tmask.nn.calibration.batches import Calibration
from tmask.nn.fitting.layer_filter import LayerFilter
from tmask.nn.fitting.prunable import find_layers


def found(model, data, **choice):
    layers, skipped = find_layers(model.eval(), Calibration(data), LayerFilter(**choice))
    return {layer.name: layer for layer in layers}, skipped


def test_order_is_that_of_the_data():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.middle, self.first = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.last(self.middle(self.first(x)))

    layers, skipped = found(Backwards(), rows(10, 8))
    assert list(layers) == ["first.weight", "middle.weight"]
    assert skipped == {"last.weight": "the classifier (include it to prune it)"}


def test_the_batch_norm_behind_a_layer_is_seen():
    model = conv_net()
    layers, _ = found(model, images(), skip_ends=False)
    assert {name: layer.batch_norm for name, layer in layers.items()} == {
        "stem.weight": model.bn0,
        "conv1.weight": model.bn1,
        "conv2.weight": None,
        "head.weight": None,
    }


class Between(nn.Module):
    """A layer and a batch norm, with something in between, or one of both called again."""

    def __init__(self, kind):
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.kind = kind

    def forward(self, x):
        if self.kind == "activation in place":
            return self.b(self.norm(self.a(x).relu_()))
        if self.kind == "activation":
            return self.b(self.norm(self.a(x).relu()))
        if self.kind == "batch norm called twice":
            return self.b(self.norm(self.norm(self.a(x))))
        if self.kind == "layer called twice":
            return self.b(self.norm(self.a(self.a(x))))
        if self.kind == "batch norm of two layers":
            return self.norm(self.a(x)) + self.norm(self.b(x))
        return self.b(self.norm(self.a(x)))


@pytest.mark.parametrize(
    "kind",
    ["activation in place", "activation", "batch norm called twice", "layer called twice", "batch norm of two layers"],
)
def test_a_batch_norm_that_sees_anything_else_is_not_taken_for_the_layers_own(kind):
    layers, _ = found(Between(kind), rows(10, 8), skip_ends=False)
    assert layers["a.weight"].batch_norm is None
    assert layers["a.weight"].calls == (2 if kind == "layer called twice" else 1)
    assert found(Between("nothing"), rows(10, 8), skip_ends=False)[0]["a.weight"].batch_norm is not None


def test_no_hooks_are_left():
    model = conv_net()
    found(model, images())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with torch.no_grad():
        model(images()[0])


class Shared(nn.Module):
    """A batch norm behind a layer, and perhaps somebody else who reads what the layer gives."""

    def __init__(self, kind):
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(8, 8, bias=False), nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.kind = kind

    def forward(self, x):
        y = self.a(x)
        if self.kind == "before":
            z = y.mean()
            return self.b(self.norm(y) + z)
        if self.kind == "view":
            return self.b(self.norm(y) + y.view(-1, 8))
        if self.kind == "other layer":
            return self.b(self.norm(y)) + self.b(y)
        if self.kind == "in place, later":
            z = self.norm(y)
            y += 1
            return self.b(z)
        if self.kind == "caller":
            return {"out": self.b(self.norm(y)), "hidden": [y]}
        return self.b(self.norm(y))


@pytest.mark.parametrize("kind", ["before", "view", "other layer", "in place, later", "caller", "nobody"])
def test_whether_the_batch_norm_is_alone_with_the_layers_output(kind):
    layers, _ = found(Shared(kind), rows(10, 8), skip_ends=False)
    assert layers["a.weight"].batch_norm is not None
    assert layers["a.weight"].only_reader == (kind == "nobody")
    with torch.inference_mode():
        inside, _ = found(Shared(kind), rows(10, 8), skip_ends=False)
    assert inside["a.weight"].only_reader == (kind == "nobody")


def test_a_model_that_runs_in_inference_mode():
    class Inference(Between):
        @torch.inference_mode()
        def forward(self, x):
            return super().forward(x)

    assert found(Inference("nothing"), rows(10, 8), skip_ends=False)[0]["a.weight"].only_reader
    assert found(Inference("activation in place"), rows(10, 8), skip_ends=False)[0]["a.weight"].batch_norm is None


class Scaled(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, 0.3 * self.weight, self.bias)


class Padded(nn.Conv1d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight.clamp(-1, 1), bias)


class Renamed(nn.Linear):
    """A class of its own that computes what torch's does."""


def test_layers_that_compute_something_else_are_left_out():
    replaced = nn.Linear(8, 8)
    replaced.forward = lambda x: x
    model = nn.Sequential(Scaled(8, 8), replaced, Renamed(8, 8), nn.Unflatten(1, (8, 1)), Padded(8, 8, 1))
    layers, skipped = found(model, rows(10, 8), skip_ends=False)
    assert list(layers) == ["2.weight"]
    assert set(skipped) == {"0.weight", "1.weight", "4.weight"}
    assert all("forward of its own" in reason for reason in skipped.values())


def test_reasons_that_say_what_to_do():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.a, self.b, self.c, self.d = (nn.Linear(8, 8) for _ in range(4))
            self.b.bias = self.a.bias
            prune.l1_unstructured(self.c, "weight", 0.5)

        def forward(self, x):
            x = x[:, None]
            return self.d(self.c(self.b(self.a(self.attention(x, x, x)[0]))))

    layers, skipped = found(Model(), rows(10, 8), skip_ends=False)
    assert list(layers) == ["d.weight"]
    assert "prune.remove(module, 'weight')" in skipped.pop("c.weight")
    assert skipped == {
        "attention.in_proj_weight": "MultiheadAttention has it as parameters, not as a layer",
        "attention.out_proj.weight": "MultiheadAttention multiplies with its weight without calling it",
        "a.weight": "its bias is shared with another module",
        "b.weight": "its bias is shared with another module",
    }

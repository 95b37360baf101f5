"""Attention reads its weights past `forward` of its projections, and past autograd in its fast path."""

import copy

import pytest
import torch
from torch import nn

from tests.nn.models import Attention, batch
from tmask import nn as tnn

MODELS = {
    "attention": Attention,
    "encoder layer": lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0),
    "encoder layer, norm first": lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True),
    "encoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
}


@pytest.mark.parametrize("name", MODELS)
def test_training_and_inference_multiply_with_the_masked_weights(name, monkeypatch):
    torch.manual_seed(0)
    model = MODELS[name]()
    tnn.sparsify(model, "1:4")
    # Numbers that would be noticed, where a mask should hide them
    for module in model.modules():
        if isinstance(module, nn.utils.parametrize.ParametrizationList):
            module.original.data[~module[0].mask] = 1e3
    plain = tnn.export(copy.deepcopy(model))
    x = batch((3, 5, 8))
    model.train(), plain.train()
    torch.manual_seed(1)
    expected = plain(x)
    torch.manual_seed(1)
    torch.testing.assert_close(model(x), expected)
    model.eval(), plain.eval()
    torch.testing.assert_close(model(x), plain(x))
    calls = _count_fast_paths(monkeypatch)
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x))
    assert calls[0] > 0
    assert calls[0] % 2 == 0, "one of the two models missed the fast path, so that nothing was compared"


def test_separate_projections_are_masked_too():
    torch.manual_seed(0)
    model = nn.MultiheadAttention(8, 2, kdim=12, vdim=16)
    tnn.sparsify(model, "1:4")
    for tensor in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
        steps = model.parametrizations[tensor]
        steps.original.data[~steps[0].mask] = 1e3
    plain = tnn.export(copy.deepcopy(model))
    inputs = batch((5, 3, 8)), batch((5, 3, 12)), batch((5, 3, 16))
    torch.testing.assert_close(model(*inputs)[0], plain(*inputs)[0])
    assert model(*inputs)[0].abs().max() < 100


def _count_fast_paths(monkeypatch):
    calls = [0]

    def counting(original):
        def counted(*args, **kwargs):
            calls[0] += 1
            return original(*args, **kwargs)

        return counted

    for name in ("_native_multi_head_attention", "_transformer_encoder_layer_fwd"):
        monkeypatch.setattr(torch, name, counting(getattr(torch, name)))
    return calls

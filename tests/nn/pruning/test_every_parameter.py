"""Every parameter of two axes or more is pruned or listed with its true reason, and advice helps when followed."""

from __future__ import annotations

import copy
import re
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from tests.nn.pruning_models import conv_net, images, rows
from tmask.errors import InvalidProblemError
from tmask.nn import adaprune, collect_grams, convert, reconstruct, reconstruction_losses, sparsegpt
from tmask.nn.pruning.pruned_masks import mask_records

WAYS = {"adaprune": adaprune, "sparsegpt": sparsegpt}


def told(report):
    return {name.partition("[")[0] for name in (*report.masks, *report.skipped)}


def matrices(model):
    return {name for name, p in model.named_parameters(remove_duplicate=False) if p.ndim > 1}


def tiny(name, **settings):
    pytest.importorskip("transformers")
    from tests.nn.blockwise.tiny_models import make, tokens

    return make(name, **settings), tokens(2)


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["gpt2", "bert", "opt", "mixtral", "qwen2_moe", "gpt_oss", "llama4_text"])
def test_no_matrix_of_a_language_model_is_passed_over(name, way, sequential):
    model, data = tiny(name)
    dense = copy.deepcopy(model)
    report = WAYS[way](model, data, "2:4", sequential=sequential)
    assert told(report) == matrices(model)
    assert not {row.layer.partition("[")[0] for row in report.layers} & report.skipped.keys()
    for key, mask in report.masks.items():
        weight = model.get_parameter(key)
        assert mask.shape == weight.shape
        assert not weight[~mask].any()
        for matrix in mask if mask.ndim == 3 else mask[None]:
            tiles = matrix.unfold(0, 4, 4).unfold(1, 4, 4)  # sides are multiples of 4
            assert bool((tiles.sum(2) == 2).all())
            assert bool((tiles.sum(3) == 2).all())
    for key in report.skipped:
        if not key.endswith("_bias"):  # of experts: they take up what their matrices lose
            assert torch.equal(model.get_parameter(key), dense.get_parameter(key))
    assert all(row.error < row.error_masked for row in report.layers)


def test_conv1d_of_gpt2_is_pruned_as_the_linear_layer_that_it_is():
    model, data = tiny("gpt2")
    name = "transformer.h.0.mlp.c_fc"
    read = []
    hook = model.get_submodule(name).register_forward_hook(lambda _, inputs, output: read.append((inputs[0], output)))
    with torch.no_grad():
        for batch in data:
            model(**batch)
    hook.remove()
    stored = model.get_submodule(name)
    linear = nn.Sequential(nn.Linear(16, 64).double())
    with torch.no_grad():
        linear[0].weight.copy_(stored.weight.T)
        linear[0].bias.copy_(stored.bias)
    expected = adaprune(linear, [x for x, _ in read], "2:4", score="wanda", include=["0"])
    found = adaprune(model, data, "2:4", score="wanda", include=[name])
    assert torch.equal(found.masks[name], expected.masks["0"].T)
    torch.testing.assert_close(stored.weight, linear[0].weight.T, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(stored.bias, linear[0].bias, rtol=1e-9, atol=1e-9)
    assert found.layers[0].error == pytest.approx(expected.layers[0].error)
    assert found.layers[0].shape == (64, 16)


@pytest.mark.parametrize("name", ["gpt_oss", "llama4_text", "mixtral"])
def test_functions_that_take_layers_take_experts(name):
    model, data = tiny(name)
    stack = next(key for key, p in model.named_parameters() if p.ndim == 3 and "down_proj" in key)
    grams = collect_grams(model, data)
    assert f"{stack}[3]" in grams
    assert f"{stack}[0]" in reconstruction_losses(model, data, ["2:4"], grams=grams)
    report = adaprune(copy.deepcopy(model), data, {stack: "2:4"}, sequential=False, grams=grams)
    assert {row.layer for row in report.layers} == {f"{stack}[{index}]" for index in range(4)}
    again = reconstruct(copy.deepcopy(model), data, report.masks)
    assert torch.equal(again.masks[stack], report.masks[stack])
    with torch.no_grad():
        model.get_parameter(stack)[torch.rand(model.get_parameter(stack).shape) < 0.8] = 0
    assert f"{stack}[0]" in convert(model, data, m=4).fits


def test_an_expert_that_no_sample_reaches_stays_dense_and_is_listed():
    model, data = tiny("gpt_oss")
    router = model.model.layers[0].mlp.router
    with torch.no_grad():
        router.bias[2] = -1e6
    stack = "model.layers.0.mlp.experts.gate_up_proj"
    before = model.get_parameter(stack)[2].clone()
    report = adaprune(model, data, "2:4")
    assert report.skipped[f"{stack}[2]"] == "no sample of the calibration data comes to it"
    assert report.masks[stack][2].all()
    assert torch.equal(model.get_parameter(stack)[2], before)
    assert f"{stack}[1]" in {row.layer for row in report.layers}


class Kinds(nn.Module):
    """A weight of each kind that is easily passed over."""

    def __init__(self):
        super().__init__()
        self.table, self.recurrent = nn.Embedding(20, 8), nn.LSTM(8, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.plain, self.turned = nn.Parameter(torch.randn(8, 12)), nn.Parameter(torch.randn(8, 12))
        self.two = nn.Bilinear(8, 8, 8)
        self.place, self.table_bias = nn.Parameter(torch.randn(1, 5, 8)), nn.Parameter(torch.randn(5, 8))
        self.back, self.head = nn.ConvTranspose1d(8, 8, 1), nn.Linear(8, 4)
        self.pruned = torch_prune.l1_unstructured(nn.Linear(8, 8), "weight", 0.5)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))

    def forward(self, ids):
        x = self.table(ids) + self.place + self.table_bias
        x = self.attention(x, x, x, need_weights=False)[0] + self.recurrent(x)[0]
        x = torch.relu(x @ self.plain) @ self.turned.T
        x = self.back(self.two(x, x).transpose(1, 2)).transpose(1, 2)
        return self.head(self.normed(self.pruned(x)))


def kinds():
    torch.manual_seed(0)
    return Kinds().eval(), [torch.randint(20, (12, 5)) for _ in range(3)]


@pytest.mark.parametrize("way", WAYS)
def test_kinds_of_weights_have_their_true_reasons(way):
    model, data = kinds()
    report = WAYS[way](model, data, "2:4")
    assert [row.layer for row in report.layers] == ["plain", "turned"]
    named = told(report)
    assert matrices(model) <= named | {
        "pruned.weight_orig",
        "normed.parametrizations.weight.original0",
        "normed.parametrizations.weight.original1",
    }
    reasons = {
        "table.weight": "a look-up table",
        "recurrent.weight_ih_l0": "LSTM multiplies with it inside one function",
        "recurrent.weight_hh_l0": "LSTM multiplies with it inside one function",
        "attention.in_proj_weight": "as parameters, not as a layer",
        "attention.out_proj.weight": "without calling it",
        "two.weight": "no product of a whole matrix with it was seen (weight of Bilinear)",
        "place": "no product of a whole matrix with it was seen (place of Kinds)",
        "table_bias": "a bias",
        "back.weight": "a transposed convolution",
        "head.weight": "the classifier (include it to prune it)",
        "pruned.weight": "torch.nn.utils.prune holds its weight",
        "normed.weight": "its weight is parametrized",
    }
    assert report.skipped.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in report.skipped[name]


def test_advice_to_include_helps():
    """Of every model: what the report says to include is pruned once it is included."""
    makes = [lambda: (conv_net(), images()), kinds]
    makes += [partial(tiny, name) for name in ("gpt2", "bert", "gpt_oss", "mixtral")]
    followed = 0
    for make in makes:
        model, data = make()
        report = adaprune(model, data, "1:4")
        for name, reason in report.skipped.items():
            if "to prune it)" in reason:
                followed += 1
                again = adaprune(make()[0], data, "1:4", include=[name])
                assert [row.layer for row in again.layers] == [name]
    assert followed > 5


def test_advice_is_not_given_where_it_would_not_help():
    """A tied head, and one with fewer outputs than a tile."""
    model, data = tiny("gpt2")
    reason = adaprune(model, data, "2:4").skipped["lm_head.weight"]
    assert reason == "its weight is shared with another module"
    reason = adaprune(conv_net(), images(), "4:8").skipped["head.weight"]
    assert reason == "5 outputs, fewer than the 8 of 4:8"


def test_advice_to_call_torch_helps():
    model, data = kinds()
    assert "call torch.nn.utils.prune.remove(module, 'weight') first" in adaprune(model, data, "2:4").skipped["pruned"]
    torch_prune.remove(model.pruned, "weight")
    assert "pruned.weight" in adaprune(model, data, "2:4").masks


def test_advice_to_exclude_a_layer_without_samples_helps():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4))
    calls = []

    def forward(model, batch):
        calls.append(batch)
        model[2](model[1](batch[:0] if len(calls) != 1 else batch))
        return model[2](model[0](batch))

    with pytest.raises(InvalidProblemError, match=r"not one sample reaches it.*exclude the layer") as caught:
        adaprune(model, rows(), "2:4", forward=forward)
    name = re.search(r"layer '([^']+)'", str(caught.value))[1]
    calls.clear()
    assert adaprune(model, rows(), "2:4", forward=forward, exclude=[name]).skipped[name] == "excluded"


def test_matrices_of_a_stack_are_in_no_mask_file():
    model, data = tiny("gpt_oss")
    report = adaprune(model, data, "2:4")
    assert {record.name for record in mask_records(model, report)} == {
        row.layer for row in report.layers if "[" not in row.layer
    }

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tmask
from tests.nn.models import Attention, Conv1D, Tied, mlp
from tmask import nn as tnn


def rows(model, pattern="2:4", **kwargs):
    """The report by layer."""
    return {row.layer: row for row in tnn.sparsify(model, pattern, **kwargs).report()}


LAYERS = {
    "linear": (nn.Linear(8, 12), "weight", 1),
    "conv1d": (nn.Conv1d(8, 12, 3), "weight", 1),
    "conv2d": (nn.Conv2d(8, 12, 3), "weight", 1),
    "conv3d": (nn.Conv3d(4, 8, 2), "weight", 1),
    "grouped": (nn.Conv2d(12, 12, 3, groups=2), "weight", 2),
    "transposed": (nn.ConvTranspose2d(8, 12, 3), "weight", 1),
    "grouped transposed": (nn.ConvTranspose2d(12, 24, 3, groups=3), "weight", 3),
    "gpt-2": (Conv1D(12, 8), "weight", 1),
    "attention": (nn.MultiheadAttention(8, 2), "in_proj_weight", 3),
    "attention, ragged": (nn.MultiheadAttention(6, 2), "in_proj_weight", 3),
    "attention, other keys": (nn.MultiheadAttention(8, 2, kdim=12, vdim=16), "k_proj_weight", 1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_get_the_mask_that_solve_finds(name):
    layer, tensor, groups = LAYERS[name]
    weight = getattr(layer, tensor).detach().clone()
    sparsifier = tnn.sparsify(layer, "2:4")
    expected = tmask.solve(weight, "2:4", groups=groups, layout="convolution")
    mask = next(one for one in sparsifier.layers if one.name == tensor).masked.mask
    tmask.check_mask(mask, "2:4", groups=groups, layout="convolution")
    assert torch.equal(mask, expected.mask)
    assert torch.equal(getattr(layer, tensor), torch.where(mask, weight, 0))
    row = next(row for row in sparsifier.report() if row.layer == tensor)
    assert (row.retained, row.gap) == (expected.retained, 0)
    sparsifier.remove()


def test_all_projections_of_an_attention_layer_are_masked():
    found = rows(Attention(kdim=8, vdim=8))
    assert [name for name, row in found.items() if not row.skipped] == [
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    ]
    torch.manual_seed(0)
    found = rows(nn.MultiheadAttention(8, 2, kdim=12, vdim=16, add_bias_kv=True))
    assert [name for name, row in found.items() if not row.skipped] == [
        "q_proj_weight",
        "k_proj_weight",
        "v_proj_weight",
        "out_proj.weight",
    ]
    assert "bias_k of MultiheadAttention" in found["bias_k"].reason


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Embedding(8, 8), "look-up table"),
        (nn.EmbeddingBag(8, 8), "look-up table"),
        (nn.LSTM(8, 8), "past any mask"),
        (nn.Bilinear(8, 8, 8), "Bilinear"),
        (nn.LayerNorm((8, 8)), "LayerNorm"),
        (nn.Linear(3, 8), "8 x 3 is smaller than a block of 4 x 4"),
        (nn.Conv2d(8, 8, 3, groups=8), "1 x 1 per group is smaller"),
        (nn.LazyLinear(8), "not initialised"),
        (nn.Linear(8, 8, dtype=torch.complex64), "dtype complex64"),
        (torch.nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), "parametrized already, by _WeightNorm"),
    ],
)
def test_what_does_not_fit_is_skipped_with_its_reason(layer, reason):
    skipped = [row for row in rows(nn.ModuleList([nn.Linear(8, 8), layer])).values() if row.skipped]
    assert skipped
    assert all(reason in row.reason for row in skipped)


def test_filters_choose_layers_by_name_or_by_the_module_around_them():
    def model():
        return nn.ModuleDict({"body": mlp(), "head": nn.Linear(8, 8), "head2": nn.Linear(8, 8)})

    def masked(**kwargs):
        return [name for name, row in rows(model(), **kwargs).items() if not row.skipped]

    assert masked(exclude=["head"]) == ["body.0.weight", "body.2.weight", "head2.weight"]
    assert masked(include=["body"], exclude=["*.2"]) == ["body.0.weight"]
    assert masked(include=["head*.weight"]) == ["head.weight", "head2.weight"]
    assert masked(filter_fn=lambda module, name: module.in_features == 16) == ["body.2.weight"]
    assert rows(model(), exclude=["head"])["head.weight"].reason == "excluded"
    assert rows(model(), include=["head"])["body.0.weight"].reason == "not included"


def test_patterns_go_by_the_first_glob_that_matches():
    model = nn.ModuleDict({"body": mlp(), "head": nn.Linear(8, 8)})
    found = rows(model, {"body.0": "4:8", "body": tmask.Pattern(1, 4)})
    assert {name: str(row.pattern) for name, row in found.items() if not row.skipped} == {
        "body.0.weight": "4:8",
        "body.2.weight": "1:4",
    }
    assert found["head.weight"].reason == "no pattern is given for it"


def test_tied_weights_get_one_mask_and_stay_tied():
    model = Tied()
    shared = model.first.weight
    sparsifier = tnn.sparsify(model, "2:4")
    (layer,) = sparsifier.layers
    assert (layer.name, [owner.name for owner in layer.owners]) == ("first.weight", ["first.weight", "second.weight"])
    assert layer.weight is shared
    assert model.first.parametrizations.weight[0] is model.second.parametrizations.weight[0]
    assert sum(parameter is shared for parameter in model.parameters()) == 1
    report = {row.layer: row for row in sparsifier.report()}
    assert report["first.weight"].tied == ("second.weight",)
    assert report["head.weight"].reason == "tied to embed.weight: a look-up table, which no matrix product multiplies"
    assert model.head.weight is model.embed.weight
    sparsifier.remove()
    assert model.first.weight is model.second.weight is shared


def test_a_weight_is_skipped_where_one_of_its_names_is_excluded():
    found = rows(nn.ModuleList([Tied(), nn.Linear(8, 8)]), exclude=["0.second"])
    assert found["0.first.weight"].reason == "tied to 0.second.weight: excluded"


@pytest.mark.parametrize(
    ("model", "kwargs", "says"),
    [
        (nn.Sequential(nn.Embedding(8, 8)), {}, "no layer .* eligible .*0.weight: a look-up table"),
        (nn.Sequential(nn.Linear(3, 3)), {}, r"no layer .*3 x 3 is smaller than a block of 4 x 4"),
        (nn.ReLU(), {}, "no weight matrices"),
        (mlp(), {"include": ["fc"]}, "'fc' matches no layer; .*0.weight"),
        (mlp(), {"exclude": ["2.weigth"]}, "did you mean 2.weight"),
        (mlp(), {"pattern": {"nothing": "2:4"}}, "'nothing' matches no layer"),
        (mlp(), {"include": "0"}, r"give a list of globs: \['0'\]"),
        (mlp(), {"pattern": "4:2"}, "did you mean 2:4"),
        (Tied(), {"pattern": {"first": "2:4", "second": "1:4"}}, "share one weight"),
    ],
)
def test_choices_that_fit_nothing_are_errors(model, kwargs, says):
    before = dict(model.state_dict())
    with pytest.raises(tmask.InvalidProblemError, match=says):
        tnn.sparsify(model, **kwargs)
    assert model.state_dict().keys() == before.keys()


def test_a_model_is_not_sparsified_twice():
    model = mlp()
    sparsifier = tnn.sparsify(model, include=["0"])
    with pytest.raises(tmask.InvalidProblemError, match=r"sparsified already \(layer '0.weight'"):
        tnn.sparsify(model, include=["2"])
    sparsifier.remove()
    tnn.sparsify(model)


@given(
    kernel=st.sampled_from([(), (1,), (3,), (2, 2)]),
    groups=st.integers(1, 3),
    rows=st.integers(1, 11),
    cols=st.integers(1, 11),
    pattern=st.sampled_from(["1:4", "2:4"]),
    seed=st.integers(0, 2**16),
)
def test_any_shape_is_masked_as_its_pattern_says_or_skipped(kernel, groups, rows, cols, pattern, seed):
    torch.manual_seed(seed)
    if kernel:
        kind = nn.Conv1d if len(kernel) == 1 else nn.Conv2d
        layer = kind(groups * cols, groups * rows, kernel, groups=groups)
    else:
        layer, groups = nn.Linear(cols, rows), 1
    row = tnn.sparsify(nn.ModuleList([nn.Linear(4, 4), layer]), pattern).report()[-1 if min(rows, cols) < 4 else 1]
    assert row.layer == "1.weight"
    assert row.skipped == (min(rows, cols) < 4)
    if not row.skipped:
        tmask.check_mask(layer.weight != 0, pattern, groups=groups, layout="convolution")
        assert row.gap == 0
        kept = layer.weight.detach().abs().sum().item()
        assert row.retained == pytest.approx(kept / layer.parametrizations.weight.original.abs().sum().item())

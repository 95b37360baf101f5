"""The way through a model: what layers are fitted to, and what is refused rather than written."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.nn.pruning_models import mlp, rows
from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn import adaprune, collect_grams, recalibrate, reconstruct, sparsegpt
from tmask.nn.fitting import scores
from tmask.nn.fitting.layer_masks import plain_mask


class Residual(nn.Module):
    """A layer that is called twice, its first output changed in place."""

    def __init__(self, in_place):
        super().__init__()
        self.inner, self.head, self.in_place = nn.Linear(8, 8), nn.Linear(8, 2), in_place

    def forward(self, x):
        h = self.inner(x)
        if self.in_place:
            h += x
        else:
            h = h + x
        return self.head(self.inner(h))


@pytest.mark.parametrize("sequential", [True, False])
def test_what_a_model_does_in_place_is_not_what_a_layer_gave(sequential):
    torch.manual_seed(0)
    model = Residual(in_place=True).eval()
    other = Residual(in_place=False).eval()
    other.load_state_dict(model.state_dict())
    found = [adaprune(m, rows(60, 8), "2:4", sequential=sequential).layers[0] for m in (model, other)]
    assert found[0].error == pytest.approx(found[1].error)
    assert torch.equal(model.inner.weight, other.inner.weight)


class Skip(nn.Module):
    """A layer without a bias, read by a batch norm and, if asked, by a sum."""

    def __init__(self, skip):
        super().__init__()
        self.a, self.norm, self.head = nn.Linear(16, 16, bias=False), nn.BatchNorm1d(16), nn.Linear(16, 4)
        self.skip = skip

    def forward(self, x):
        y = self.a(x)
        return self.head(self.norm(y) + y if self.skip else self.norm(y))


@pytest.mark.parametrize("sequential", [True, False])
def test_the_mean_is_fitted_where_a_batch_norm_is_not_alone(sequential):
    data = [batch + 1 for batch in rows()]
    x = torch.cat(data)
    lost = {}
    for skip in (True, False):
        torch.manual_seed(0)
        model = Skip(skip).eval()
        before = model.a(x).detach()
        adaprune(model, data, "2:4", sequential=sequential)
        after = model.a(x).detach()
        lost[skip] = float((after.mean(0) - before.mean(0)).abs().max())
        torch.testing.assert_close(model.norm.running_mean, after.mean(0), rtol=1e-4, atol=1e-5)
    assert lost[True] < 0.1 * lost[False]


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("prune", [adaprune, sparsegpt])
def test_a_layer_without_samples_is_named_and_the_model_stays(prune, sequential):
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InvalidProblemError, match=r"layer '0\.weight': not one sample reaches it"):
        prune(model, [torch.zeros(0, 16)], "2:4", sequential=sequential)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_that_overflow_are_not_written():
    """The input that is kept is 2^-14 of the one that is removed, so its weight would have to grow 2^14 times."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False)).half()
    nn.init.constant_(model[0].weight, 8.0)
    large = torch.arange(1.0, 9)[:, None]
    data = [torch.cat([large, large * 2**-14], 1).half()]
    with pytest.raises(
        InvalidProblemError, match=r"layer '0.weight': its new weight \(float16\) holds NaN or infinite"
    ):
        reconstruct(model, data, {"0": torch.tensor([[False, True]])}, damping=0.0)
    assert (model[0].weight == 8).all()


@pytest.mark.parametrize("bias", [True, False])
def test_wanda_is_that_of_the_inputs_as_they_are_with_a_bias_too(bias):
    """[Sun2024] takes the norm of the inputs, their mean included."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16, bias=bias), nn.Linear(16, 4)).eval()
    offsets = 5 * torch.randn(16)
    data = [batch + offsets for batch in rows()]
    expected = (model[0].weight * torch.cat(data).norm(dim=0)).abs().detach().numpy()
    report = adaprune(model, data, "2:4", transposable=False, score="wanda")
    assert (report.masks["0"].numpy() == plain_mask(expected, Pattern(2, 4))).all()


def test_obs_leaves_the_mean_to_the_bias(monkeypatch):
    seen = []
    monkeypatch.setattr(scores, "_registered", dict(scores._registered))
    for name, centred in (("as they are", False), ("less their means", True)):

        @scores.register_score(name, source="", about="", centred=centred)
        def watch(weight, gram, damping):
            seen.append(gram)
            return weight.abs()

        adaprune(mlp(), rows(), "2:4", score=name, include=["0"])
    assert scores.get_score("obs").centred
    x = torch.cat(rows()).double()
    torch.testing.assert_close(seen[0].xx[0], x.T @ x)
    centred = x - x.mean(0)
    torch.testing.assert_close(seen[1].xx[0], centred.T @ centred)


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("kind", ["its own", "variance", "mean"])
def test_statistics_of_other_data_are_remarked_on(kind, sequential):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)).eval()
    recalibrate(model, rows(batch=200))
    if kind == "variance":
        model[1].running_var *= 4
    elif kind == "mean":
        model[1].running_mean += 1.5 * model[1].running_var.sqrt()
    (row,) = adaprune(model, rows(seed=2), "2:4", sequential=sequential).layers
    assert ("`recalibrate` the model before it is pruned" in row.remark) == (kind != "its own")


class Named(nn.Module):
    """Calls its layers with keywords."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.head = nn.Linear(16, 16, bias=False), nn.BatchNorm1d(16), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(input=self.norm(input=self.a(input=x)))


@pytest.mark.parametrize("sequential", [True, False])
def test_inputs_given_by_name_are_read(sequential):
    torch.manual_seed(0)
    model, by_position = Named().eval(), nn.Sequential(nn.Linear(16, 16, bias=False), nn.BatchNorm1d(16))
    by_position.append(nn.Linear(16, 4)).eval()
    by_position.load_state_dict(dict(zip(by_position.state_dict(), model.state_dict().values(), strict=True)))
    for data in (rows(), rows(batch=2)):  # statistics in one pass, and in several
        adaprune(model, data, "2:4", sequential=sequential)
        adaprune(by_position, data, "2:4", sequential=sequential)
        for one, two in zip(model.state_dict().values(), by_position.state_dict().values(), strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("sequential", [True, False])
def test_a_model_in_inference_mode_is_pruned_as_any_other(sequential):
    class Inference(Named):
        forward = torch.inference_mode()(Named.forward)

    torch.manual_seed(0)
    model, other = Inference().eval(), Named().eval()
    other.load_state_dict(model.state_dict())
    for one in (model, other):
        adaprune(one, rows(), "2:4", sequential=sequential)
    for one, two in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two)


class Routed(nn.Module):
    """Sends each sample, or each batch, to one of two layers, by what the layer before made of it."""

    def __init__(self, by_batch):
        super().__init__()
        self.first, self.left, self.right = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.head, self.by_batch = nn.Linear(16, 4), by_batch

    def forward(self, x):
        x = self.first(x)
        if self.by_batch:
            return self.head(self.left(x) if x[:, 0].mean() > 0 else self.right(x))
        left = x[:, 0] > 0
        return self.head(torch.cat([self.left(x[left]), self.right(x[~left])]))


@pytest.mark.parametrize("by_batch", [True, False])
def test_samples_that_take_other_ways_in_the_pruned_model_are_named(by_batch):
    torch.manual_seed(1)
    data = rows(batch=5 if by_batch else 100)
    with pytest.raises(InvalidProblemError, match=r"layer '(left|right).weight' reads other samples.*sequential=False"):
        adaprune(Routed(by_batch).eval(), data, "1:4")
    report = adaprune(Routed(by_batch).eval(), data, "1:4", sequential=False)
    assert "first.weight" in {row.layer for row in report.layers}


def test_sums_of_another_model_are_refused():
    model, data = mlp(), rows()
    grams = collect_grams(mlp(seed=1), data)
    with pytest.raises(InvalidProblemError, match=r"grams of layer '0\.weight' are those of other weights"):
        adaprune(model, data, "2:4", sequential=False, grams=grams)
    half = mlp().bfloat16()
    data = [batch.bfloat16() for batch in data]
    assert adaprune(half, data, "2:4", sequential=False, grams=collect_grams(half, data)).layers


def test_no_warning_for_a_model_in_double(recwarn):
    adaprune(mlp().double(), [batch.double() for batch in rows()], "2:4")
    assert not recwarn.list


@pytest.mark.parametrize("suffix", ["", ".weight"])
@pytest.mark.parametrize("prune", [adaprune, sparsegpt])
def test_a_pattern_of_ones_own_includes_a_layer_at_an_end(prune, suffix):
    model = mlp()
    report = prune(model, rows(), {f"4{suffix}": "1:4", f"2{suffix}": "2:4"})
    assert [(row.layer, row.pattern) for row in report.layers] == [("2.weight", "2:4"), ("4.weight", "1:4")]
    assert report.skipped == {"0.weight": "no pattern is given for it"}
    with pytest.raises(InvalidProblemError, match=r"layer '2\.weight' is given two patterns"):
        prune(model, rows(), {"2": "1:4", "2.weight": "2:4"})
    with pytest.raises(InvalidProblemError, match=r"'7\.bias', which is not pruned: the model has no such"):
        prune(model, rows(), {"7.bias": "1:4"})
    with pytest.raises(InvalidProblemError, match=r"for layer '2\.weight', which is not pruned: excluded"):
        prune(model, rows(), {"2.weight": "1:4"}, exclude=["2"])


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"transposable": False, "solver": "nonsense"}, "solver 'nonsense' finds transposable masks"),
        ({"transposable": False, "solver": "patterns"}, "solver 'patterns' finds transposable masks"),
        ({"transposable": False, "certify": False}, "certify is of transposable masks"),
        ({"steps": 10}, "steps and learning_rate are of Adam; method 'least-squares' would ignore them"),
        ({"method": "none", "learning_rate": 0.1}, "method 'none' would ignore them"),
        ({"method": "adam", "steps": 2.5}, r"steps 2\.5 must be a whole number"),
        ({"method": "adam", "steps": 0}, "steps 0 must be a whole number, at least 1"),
        ({"method": "adam", "learning_rate": "a"}, "learning_rate 'a' must be a number"),
        ({"damping": "x"}, "damping 'x' must be a number"),
        ({"damping": None}, "damping None must be a number"),
        ({"include": 5}, "include is 5; give a list of globs"),
    ],
)
def test_settings_that_would_be_ignored_or_mean_nothing(setting, says):
    with pytest.raises(InvalidProblemError, match=says):
        adaprune(mlp(), rows(), "2:4", **setting)


def test_a_solver_is_not_ignored_by_the_sweep():
    with pytest.raises(InvalidProblemError, match="solver 'patterns' finds transposable masks"):
        sparsegpt(mlp(), rows(), "2:4", transposable=False, solver="patterns")


def test_the_sweep_proves_only_what_it_is_asked_to():
    proven, bare = (sparsegpt(mlp(), rows(), "2:4", certify=certify) for certify in (True, False))
    assert [row.optimality_gap for row in proven.layers] == pytest.approx([0, 0], abs=1e-9)
    assert [row.optimality_gap for row in bare.layers] == [None, None]
    assert [row.retained for row in bare.layers] == [row.retained for row in proven.layers]
    with pytest.raises(InvalidProblemError, match="certify is of transposable masks"):
        sparsegpt(mlp(), rows(), "2:4", transposable=False, certify=False)


def test_masks_of_other_kinds():
    mask = np.random.default_rng(0).random((16, 16)) < 0.5
    models = [mlp(), mlp()]
    reconstruct(models[0], rows(), {"0": mask})
    reconstruct(models[1], rows(), {"0": torch.from_numpy(mask)})
    assert torch.equal(models[0][0].weight, models[1][0].weight)
    for masks, says in (
        ([mask], "masks must be a mapping"),
        ({}, "masks must be a mapping of at least one"),
        ({"0": mask.tolist()}, "layer '0.weight': its mask is list; give a bool tensor or array of shape"),
        ({"0": mask.astype(np.float32)}, "layer '0.weight': its mask is torch.float32"),
    ):
        with pytest.raises(InvalidProblemError, match=says):
            reconstruct(models[0], rows(), masks)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("prune", "needed"),
    [
        (lambda model, data: adaprune(model, data, "2:4", damping=0.0), 8),
        (lambda model, data: adaprune(model, data, "2:4", damping=0.0, score="obs"), 16),
        (lambda model, data: sparsegpt(model, data, "2:4", damping=0.0), 16),
    ],
)
def test_the_number_of_samples_that_is_asked_for_is_enough_and_one_less_is_not(prune, needed, bias):
    """With a bias one more: the mean takes one of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16, bias=bias), nn.ReLU(), nn.Linear(16, 4)).double().eval()
    needed += bias
    data = torch.randn(needed, 16, dtype=torch.float64)
    with pytest.raises(InvalidProblemError, match=f"{needed - 1} samples are too few .* at least {needed} samples"):
        prune(copy.deepcopy(model), [data[:-1]])
    assert prune(model, [data]).layers


def test_a_message_of_torchs_ends_with_one_full_stop():
    class Refuses(nn.Sequential):
        def forward(self, x):
            raise ValueError("No such image.")

    with pytest.raises(InvalidProblemError, match=r"No such image\. Batches hold the model's inputs alone"):
        adaprune(Refuses(nn.Linear(8, 8)), rows(8, 8), "2:4")

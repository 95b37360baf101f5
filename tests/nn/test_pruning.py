"""The way through a model: what layers are fitted to, and what is refused rather than written."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.nn.pruning_models import mlp, rows
from tmask.errors import InvalidProblemError
from tmask.nn import adaprune, collect_grams, recalibrate, reconstruct, scores, sparsegpt
from tmask.nn.layer_masks import plain_mask
from tmask.pattern import Pattern


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
    with pytest.raises(InvalidProblemError, match="layer '0': not one sample reaches it"):
        prune(model, [torch.zeros(0, 16)], "2:4", sequential=sequential)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_that_overflow_are_not_written():
    """The input that is kept is 2^-14 of the one that is removed, so its weight would have to grow 2^14 times."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False)).half()
    nn.init.constant_(model[0].weight, 8.0)
    large = torch.arange(1.0, 9)[:, None]
    data = [torch.cat([large, large * 2**-14], 1).half()]
    with pytest.raises(InvalidProblemError, match=r"layer '0': its new weight \(float16\) holds NaN or infinite"):
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
    with pytest.raises(InvalidProblemError, match=r"layer '(left|right)' reads other samples.*sequential=False"):
        adaprune(Routed(by_batch).eval(), data, "1:4")
    report = adaprune(Routed(by_batch).eval(), data, "1:4", sequential=False)
    assert "first" in {row.layer for row in report.layers}


def test_sums_of_another_model_are_refused():
    model, data = mlp(), rows()
    grams = collect_grams(mlp(seed=1), data)
    with pytest.raises(InvalidProblemError, match="grams of layer '0' are those of other weights"):
        adaprune(model, data, "2:4", sequential=False, grams=grams)
    half = mlp().bfloat16()
    data = [batch.bfloat16() for batch in data]
    assert adaprune(half, data, "2:4", sequential=False, grams=collect_grams(half, data)).layers


def test_no_warning_for_a_model_in_double(recwarn):
    adaprune(mlp().double(), [batch.double() for batch in rows()], "2:4")
    assert not recwarn.list

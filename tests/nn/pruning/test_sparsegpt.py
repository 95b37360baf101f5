"""The sweep against its definition, one weight at a time, and under transposable masks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tmask
from tests.nn.pruning_models import conv_net, images, mlp, rows
from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn import adaprune, recalibrate, sparsegpt
from tmask.nn.calibration.batches import Calibration
from tmask.nn.calibration.linear_view import LinearView
from tmask.nn.calibration.recording import collect
from tmask.nn.fitting.layer_masks import MaskSearch
from tmask.nn.pruning.sparsegpt import sweep


def layer_data(layer, shape, count=4):
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(shape, generator=generator) for _ in range(count)]
    view = LinearView(layer)
    (gram,) = collect(Calibration(batches), layer, {"": view}).values()
    return view, gram, view.matrices(layer.weight.detach()).double()


def by_definition(hessian, weight, kept):
    """Columns in turn: what one loses goes to those behind it, through the inverse of what is left of the Hessian."""
    left = weight.clone()
    for j in range(left.shape[1]):
        inverse = torch.linalg.inv(hessian[j:, j:])
        removed = torch.where(kept[:, j], 0.0, left[:, j])
        left[:, j:] -= removed[:, None] / inverse[0, 0] * inverse[0][None]
    return left * kept


def test_a_sweep_is_optimal_brain_surgeon_column_by_column():
    torch.manual_seed(0)
    view, gram, weight = layer_data(nn.Linear(8, 8), (20, 8))
    swept, found = sweep(view, gram, weight, Pattern(2, 4), MaskSearch(True, "auto", True), 0.0)
    torch.testing.assert_close(swept[0], by_definition(gram.xx[0], weight[0], found.mask[0]), rtol=1e-7, atol=1e-8)


def test_masks_are_found_on_the_scores_of_their_time():
    torch.manual_seed(0)
    view, gram, weight = layer_data(nn.Linear(8, 8), (20, 8))
    _, found = sweep(view, gram, weight, Pattern(2, 4), MaskSearch(True, "auto", True), 0.0)
    # The first block: scores of the dense weights, each against the columns behind it.
    pivots = torch.stack([torch.linalg.inv(gram.xx[0][j:, j:])[0, 0] for j in range(8)])
    first = tmask.solve((weight[0] ** 2 / pivots)[:, :4].numpy(), "2:4")
    assert torch.equal(found.mask[0, :, :4], torch.from_numpy(first.mask))
    left = by_definition(gram.xx[0], weight[0], torch.cat([found.mask[0, :, :4], torch.ones(8, 4).bool()], 1))
    second = tmask.solve((left**2 / pivots)[:, 4:].numpy(), "2:4")
    assert torch.equal(found.mask[0, :, 4:], torch.from_numpy(second.mask))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposable", [True, False])
def test_convolutions_with_ragged_edges(groups, transposable):
    torch.manual_seed(0)
    layer = nn.Conv2d(10 * groups, 9 * groups, (2, 1), groups=groups)
    view, gram, weight = layer_data(layer, (3, 10 * groups, 6, 6))
    swept, found = sweep(view, gram, weight, Pattern(2, 4), MaskSearch(transposable, "auto", True), 0.01)
    mask = view.tensor(found.mask)
    assert not swept[~found.mask].any()
    full = mask[:, :8].reshape(9 * groups, 2, 4, 2).sum(2)
    assert (full == 2)[: 8 if groups == 1 and transposable else None].sum() > 0
    if transposable:
        tmask.check_mask(mask, "2:4", groups=groups)
    else:
        assert (full == 2).all()
        assert (mask[:, 8:].sum(1) <= 2).all()
    assert found.worth.optimality_gap == pytest.approx(0, abs=1e-9)
    assert 0 < found.worth.retained < 1


def test_a_sweep_beats_its_own_mask_without_updates():
    torch.manual_seed(0)
    view, gram, weight = layer_data(nn.Linear(32, 16), (100, 32))
    mixed = torch.randn(32, 32, dtype=torch.float64)
    gram.xx = mixed.T @ gram.xx @ mixed  # inputs that depend on one another
    gram.xy = gram.xx @ weight.transpose(1, 2)
    gram.yy = (weight @ gram.xx * weight).sum(2)
    swept, found = sweep(view, gram, weight, Pattern(2, 4), MaskSearch(True, "auto", True), 0.0)
    assert gram.errors(swept).sum() < 0.9 * gram.errors(weight * found.mask).sum()


@pytest.mark.parametrize("refit", [True, False])
def test_models(refit):
    model, data = conv_net(), images()
    recalibrate(model, data)  # so that the targets are on the scale of the inputs
    report = sparsegpt(model, data, "2:4", refit=refit)
    assert [row.layer for row in report.layers] == ["conv1.weight", "conv2.weight"]
    for row in report.layers:
        module = model.get_submodule(row.layer.removesuffix(".weight"))
        assert not module.weight[~report.masks[row.layer]].any()
        tmask.check_mask(report.masks[row.layer], "2:4", groups=module.groups)
        assert row.error < row.error_masked


def test_the_refit_never_loses():
    swept, refitted = (sparsegpt(mlp(), rows(), "2:4", refit=refit, sequential=False) for refit in (False, True))
    for one, two in zip(swept.layers, refitted.layers, strict=True):
        assert two.error <= one.error * (1 + 1e-6)


def test_singular_data_need_damping():
    data = [batch[:, :1].expand(-1, 16) for batch in rows()]
    with pytest.raises(InvalidProblemError, match=r"layer '0\.weight': .*singular.*damping > 0"):
        sparsegpt(mlp(), data, "2:4", damping=0.0)
    assert sparsegpt(mlp(), data, "2:4").layers


def test_scores_of_the_sweep_beat_magnitude_on_dependent_inputs():
    """What it is for; on inputs that are far from white."""
    data = rows(400)
    by_magnitude = adaprune(mlp(), data, "2:4", sequential=False)
    swept = sparsegpt(mlp(), data, "2:4", sequential=False)
    assert sum(row.error for row in swept.layers) < sum(row.error for row in by_magnitude.layers)

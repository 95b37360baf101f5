"""Scores against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.nn.calibration.test_gram import filled
from tests.nn.pruning_models import mlp, rows
from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn import adaprune, available_scores, register_score
from tmask.nn.calibration.linear_view import LinearView
from tmask.nn.fitting import scores
from tmask.nn.fitting.layer_masks import MaskSearch
from tmask.nn.pruning.sparsegpt import sweep

NAMES = [score.name for score in available_scores()]


def weights(seed=3):
    return torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_registry_has_the_four_of_the_literature():
    assert {"magnitude", "squared", "wanda", "obs"} <= set(NAMES)
    assert all(score.source and score.about for score in available_scores())


def test_simple_ones_are_their_formulas():
    x, _, gram = filled()
    w = weights()
    torch.testing.assert_close(scores.magnitude(w, gram, 0.0), w.abs())
    torch.testing.assert_close(scores.squared(w, gram, 0.0), w**2)
    torch.testing.assert_close(scores.wanda(w, gram, 0.0), w.abs() * x.norm(dim=1)[:, None, :])


def test_obs_is_the_least_error_that_removing_one_weight_costs():
    """Solved anew without that input, from outputs that the weights give exactly."""
    x, _, gram = filled()
    w = weights()
    y = x @ w.transpose(1, 2)
    found = scores.obs(w, gram, 0.0)
    for j in range(6):
        others = [c for c in range(6) if c != j]
        best = torch.linalg.lstsq(x[0][:, others], y[0]).solution
        lost = (x[0][:, others] @ best - y[0]).square().sum(0)
        torch.testing.assert_close(found[0, :, j], lost, rtol=1e-7, atol=1e-9)


def test_obs_needs_damping_where_inputs_depend_on_one_another():
    x, y, gram = filled()
    gram.add(x[:, :1], y[:, :1])
    gram.xx[:, :, 1], gram.xx[:, 1, :] = gram.xx[:, :, 0], gram.xx[:, 0, :]
    gram.xx[:, 1, 1] = gram.xx[:, 0, 0]
    with pytest.raises(InvalidProblemError, match=r"singular.*damping > 0"):
        scores.obs(weights(), gram, 0.0)
    assert torch.isfinite(scores.obs(weights(), gram, 0.01)).all()


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_weights_of_inputs_that_are_always_zero_count_for_nothing(damping):
    x, y, gram = filled()
    x[:, :, 4] = 0
    gram = gram.zeros(LinearView(nn.Linear(6, 3)))
    gram.add(x, y)
    for score in (scores.wanda, scores.obs):
        found = score(weights(), gram, damping)
        assert not found[:, :, 4].any()
        assert (found[:, :, [0, 1, 2, 3, 5]] > 0).all()
    view = LinearView(nn.Linear(6, 3))
    for width in (Pattern(5, 6), Pattern(1, 2)):
        _, swept = sweep(view, gram, weights(), width, MaskSearch(False, "auto", True), damping)
        assert not swept.mask[:, :, 4].any()


@pytest.mark.parametrize("score", NAMES)
@pytest.mark.parametrize("solver", ["patterns", "greedy-keep", "bi-nm"])
def test_any_score_drives_any_solver(score, solver):
    report = adaprune(mlp(), rows(), "2:4", score=score, solver=solver)
    assert report.layers
    assert all(0 < row.retained <= 1 and row.solver == solver for row in report.layers)


def test_a_score_of_ones_own_is_used(monkeypatch):
    monkeypatch.setattr(scores, "_registered", dict(scores._registered))

    @register_score("last", source="this test", about="the column's number")
    def last(weight, gram, damping):
        return torch.arange(weight.shape[2], dtype=torch.float64).expand_as(weight)

    report = adaprune(mlp(), rows(), "2:4", transposable=False, score="last")
    mask = report.masks["2"].reshape(16, 4, 4)
    assert mask[:, :, 2:].all()
    assert not mask[:, :, :2].any()
    with pytest.raises(InvalidProblemError, match="'last' exists already"):
        register_score("last", source="", about="")(last)


def test_unknown_and_broken_scores_are_refused(monkeypatch):
    with pytest.raises(InvalidProblemError, match="no score is named 'wandas'; there are: magnitude"):
        adaprune(mlp(), rows(), "2:4", score="wandas")
    monkeypatch.setattr(scores, "_registered", dict(scores._registered))
    register_score("negative", source="", about="")(lambda weight, gram, damping: weight)
    with pytest.raises(InvalidProblemError, match=r"layer '0\.weight': score 'negative' gave"):
        adaprune(mlp(), rows(), "2:4", score="negative")

"""What patterns cost the layers of a model, and the way from there through an allocation to a pruned model."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.nn.pruning_models import conv_net, images, mlp, rows
from tmask.allocation.allocating import allocate
from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn import adaprune, collect_grams, reconstruction_losses


@pytest.mark.parametrize("transposable", [True, False])
@pytest.mark.parametrize("method", ["least-squares", "none"])
@pytest.mark.parametrize("score", ["magnitude", "wanda", "obs"])
def test_they_are_the_errors_that_pruning_reports(transposable, method, score):
    model, data = conv_net(), images()
    before = copy.deepcopy(model.state_dict())
    settings = {"transposable": transposable, "method": method, "score": score}
    losses = reconstruction_losses(model, data, ["1:4", "2:4", "4:4", "2:4"], skip_ends=False, **settings)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    # The first has 3 inputs, fewer than any tile.
    assert list(losses) == ["conv1.weight", "conv2.weight", "head.weight"]
    for pattern in ("1:4", "2:4"):
        report = adaprune(copy.deepcopy(model), data, pattern, sequential=False, skip_ends=False, **settings)
        for row in report.layers:
            assert losses[row.layer][Pattern.parse(pattern)] == pytest.approx(row.error, rel=1e-4)
    for options in losses.values():
        assert list(options) == [Pattern(1, 4), Pattern(2, 4), Pattern(4, 4)]
        assert options[Pattern(1, 4)] > options[Pattern(2, 4)] > options[Pattern(4, 4)]
        assert options[Pattern(4, 4)] < 1e-9


def test_settings_of_adam_reach_it():
    model, data = conv_net(), images()
    settings = {"method": "adam", "steps": 3, "learning_rate": 0.01}
    losses = reconstruction_losses(model, data, ["2:4"], **settings)
    report = adaprune(copy.deepcopy(model), data, "2:4", sequential=False, **settings)
    assert {row.layer: row.error for row in report.layers} == pytest.approx(
        {name: options[Pattern(2, 4)] for name, options in losses.items()}, rel=1e-4
    )
    longer = reconstruction_losses(model, data, ["2:4"], **settings | {"steps": 300})
    assert all(longer[name][Pattern(2, 4)] < losses[name][Pattern(2, 4)] for name in losses)


def test_sums_of_an_earlier_pass_serve():
    model, data = conv_net(), images()
    grams = collect_grams(model, data)
    assert reconstruction_losses(model, data, ["2:4"], grams=grams) == reconstruction_losses(model, data, ["2:4"])
    with pytest.raises(InvalidProblemError, match="those of other weights"):
        reconstruction_losses(conv_net(seed=1), data, ["2:4"], grams=grams)


def test_an_allocation_by_errors_keeps_the_budget_and_loses_less_than_one_pattern_for_all():
    pytest.importorskip("ortools")
    model, data = mlp(), rows()
    with torch.no_grad():  # one layer is sparse already, and loses nothing at 1:4
        model[2].weight *= torch.arange(16).add(torch.arange(16)[:, None]) % 4 == 0
    patterns = ["1:4", "2:4", "3:4"]
    losses = reconstruction_losses(model, data, patterns, skip_ends=False)
    shapes = {name: tuple(model.get_parameter(name).shape) for name in losses}
    found = allocate(losses, shapes, 0.5)
    assert (found.patterns["2.weight"], losses["2"][Pattern(1, 4)]) == (Pattern(1, 4), pytest.approx(0, abs=1e-12))
    assert found.loss < sum(options[Pattern(2, 4)] for options in losses.values())
    pruned = copy.deepcopy(model)
    report = adaprune(pruned, data, found.patterns, sequential=False)
    assert {row.layer: Pattern.parse(row.pattern) for row in report.layers} == found.patterns
    assert sum(row.error for row in report.layers) == pytest.approx(found.loss, rel=1e-4)
    kept = sum(int(mask.sum()) for mask in report.masks.values())
    assert kept / sum(mask.numel() for mask in report.masks.values()) == found.density <= 0.5


@pytest.mark.parametrize(
    ("patterns", "setting", "says"),
    [
        ([], {}, "at least one pattern"),
        (["16:32"], {}, "no layer is wide enough for any of 16:32"),
        (["2:4"], {"score": "luck"}, "no score is named 'luck'"),
        (["2:4"], {"damping": -1}, "damping -1"),
        (["2:4"], {"transposable": False, "solver": "patterns"}, "finds transposable masks"),
    ],
)
def test_bad_input(patterns, setting, says):
    with pytest.raises(InvalidProblemError, match=says):
        reconstruction_losses(mlp(), rows(), patterns, **setting)

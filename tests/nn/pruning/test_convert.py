"""`convert` hands the settings of AdaPrune on; patterns and files are tested elsewhere."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.nn.pruning_models import mlp, rows
from tmask.errors import InvalidProblemError
from tmask.nn import adaprune, convert


def sparse():
    model = mlp()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight *= torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    return model


@pytest.mark.parametrize("settings", [{}, {"method": "adam", "steps": 3, "learning_rate": 0.01}, {"certify": False}])
@pytest.mark.parametrize("sequential", [True, False])
def test_it_is_adaprune_with_the_patterns_that_fit(settings, sequential):
    converted = sparse()
    report = convert(converted, rows(), m=4, confidence=0.5, sequential=sequential, **settings)
    patterns = {name: fit.pattern for name, fit in report.fits.items() if not fit.dense}
    assert patterns
    pruned = copy.deepcopy(sparse())
    rows_of = adaprune(pruned, rows(), patterns, fold=False, sequential=sequential, **settings).layers
    for one, two in zip(report.pruning.layers, rows_of, strict=True):
        assert (one.layer, one.pattern, one.error, one.retained) == (two.layer, two.pattern, two.error, two.retained)
        assert one.optimality_gap == (None if settings == {"certify": False} else pytest.approx(0, abs=1e-9))
    assert all(torch.equal(a, b) for a, b in zip(converted.parameters(), pruned.parameters(), strict=True))


def test_settings_that_would_be_ignored_are_refused():
    with pytest.raises(InvalidProblemError, match="steps and learning_rate are of Adam"):
        convert(sparse(), rows(), m=4, confidence=0.5, steps=3)
    with pytest.raises(InvalidProblemError, match="certify is of transposable masks"):
        convert(sparse(), rows(), m=4, confidence=0.5, transposable=False, certify=False)

"""Hysteresis: at a renewal an entry gives way only to others that gain more than a margin; exactly so."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tmask
from tests.nn.models import mlp
from tmask.nn import Periodic, sparsify


def renewed(hysteresis, noise, seed=0, pattern="2:4"):
    """A model's masks before and after its weights have moved a little, and the moved weights."""
    model = mlp(seed)
    sparsifier = sparsify(model, pattern, schedule=Periodic(every=1), hysteresis=hysteresis)
    before = [layer.masked.mask.clone() for layer in sparsifier.layers]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in sparsifier.layers:
            layer.weight.add_(noise * torch.randn(layer.weight.shape, generator=generator))
    renewal = sparsifier.step()
    return before, sparsifier, renewal


@given(hysteresis=st.sampled_from([0.0, 0.1, 0.5, 1.0]), seed=st.integers(0, 2**16), noise=st.floats(0.01, 1))
def test_masks_are_the_best_for_scores_with_the_bonus(hysteresis, seed, noise):
    before, sparsifier, renewal = renewed(hysteresis, noise, seed)
    for kept, layer, row in zip(before, sparsifier.layers, renewal.layers, strict=True):
        score = layer.weight.detach().abs()
        score = score * torch.where(kept, 1 + hysteresis, 1.0)
        best = tmask.solve(layer.weight.detach(), layer.pattern, score=score)
        assert row.worth.objective == pytest.approx(best.objective, rel=1e-6)
        assert row.worth.optimality_gap == 0
        # What comes in gains more than the margin over what goes out, or nothing changes.
        weight, mask = layer.weight.detach().abs().double(), layer.masked.mask
        entering, leaving = weight[mask & ~kept].sum(), weight[kept & ~mask].sum()
        assert entering >= (1 + hysteresis) * leaving * (1 - 1e-6)


def test_fewer_bits_flip():
    flips = [renewed(hysteresis, noise=0.2)[2].flip_rate for hysteresis in (0.0, 0.3, 1.0)]
    assert flips[0] > flips[1] > flips[2]


def test_the_first_masks_and_those_behind_a_dense_phase_have_no_bonus():
    for schedule in (Periodic(every=1), Periodic(every=1, begin=1)):
        model = mlp()
        sparsifier = sparsify(model, "2:4", schedule=schedule, hysteresis=1.0)
        if schedule.begin:
            sparsifier.step()
        for layer in sparsifier.layers:
            best = tmask.solve(layer.weight.detach(), "2:4")
            assert torch.equal(layer.masked.mask, best.mask)

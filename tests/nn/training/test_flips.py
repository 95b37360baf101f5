"""Flip rates of dense training, and the decay that is found by them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tmask
from tests.nn.models import mlp
from tmask.errors import InvalidProblemError
from tmask.nn import FlipRate, find_decay


def test_flips_are_of_masks_that_are_found_and_not_applied():
    model = mlp()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    rate = FlipRate(model, "2:4")
    assert rate() is None
    assert rate() == 0
    masks = [tmask.solve(model[i].weight.detach(), "2:4").mask for i in (0, 2)]
    with torch.no_grad():
        model[0].weight.add_(torch.randn(16, 8))
    after = [tmask.solve(model[i].weight.detach(), "2:4").mask for i in (0, 2)]
    flips = sum(int((a != b).sum()) for a, b in zip(masks, after, strict=True))
    assert rate() == flips / (16 * 8 + 12 * 16)
    assert flips
    assert torch.equal(model[2].weight, before["2.weight"])


@given(st.lists(st.floats(0, 2), min_size=3, max_size=3), st.floats(0.01, 1))
def test_the_smallest_rate_in_the_band_is_chosen_or_the_nearest_to_it(ratios, dense):
    rates = [1e-4, 1e-3, 1e-2]
    table = dict(zip(rates, ratios, strict=True))
    found = find_decay(lambda rate: dense if rate == 0 else table[rate] * dense, rates[::-1])
    assert found.ratios == pytest.approx(table)
    inside = [rate for rate in rates if 0.6 <= found.ratios[rate] <= 0.95]
    assert found.inside == bool(inside)
    if inside:
        assert found.rate == min(inside)
    else:
        away = {rate: max(0.6 - r, r - 0.95) for rate, r in found.ratios.items()}
        assert away[found.rate] == min(away.values())


@pytest.mark.parametrize(
    ("trial", "candidates", "text"),
    [
        (lambda rate: 0.1, [], "candidates must be rates above 0"),
        (lambda rate: 0.1, [0.0, 0.1], "candidates must be rates above 0"),
        (lambda rate: 0.0, [0.1], "dense training has a flip rate of 0.0"),
    ],
)
def test_what_says_nothing_is_refused(trial, candidates, text):
    with pytest.raises(InvalidProblemError, match=text):
        find_decay(trial, candidates)


def test_more_decay_flips_less_in_training():
    from tmask.nn import MaskedDecay, Periodic, sparsify

    def trial(rate):
        model, flips = mlp(), []
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
        watched = FlipRate(model, "2:4") if rate == 0 else None
        if watched is None:
            sparsify(
                model,
                schedule=Periodic(every=5),
                decay=MaskedDecay(rate),
                optimizer=optimizer,
                on_renewal=lambda renewal: flips.append(renewal.flip_rate),
            )
        for step in range(60):
            optimizer.zero_grad()
            x = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
            (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()
            if watched is not None and step % 5 == 0:
                flips.append(watched())
        return sum(flips[1:]) / len(flips[1:])

    found = find_decay(trial, [1e-3, 1.0])
    assert found.ratios[1.0] < found.ratios[1e-3]

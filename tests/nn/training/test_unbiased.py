"""Estimates of the output's gradient: n of m, right on average, of least variance; layers that learn from them."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.nn.models import mlp
from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn import estimate_gradients, exact_gradients, sparsify, unbiased_estimate
from tmask.nn.training.unbiased import _inclusion


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(
    pattern=st.sampled_from(["1:2", "2:4", "1:4", "4:8", "4:4"]),
    rows=st.integers(1, 20),
    seed=st.integers(0, 2**16),
    zeros=st.floats(0, 1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_at_most_n_of_m_are_kept_and_each_is_scaled_up(pattern, rows, seed, zeros, dtype):
    found = Pattern.parse(pattern)
    values = drawn(rows, 5, seed=seed) * (torch.rand(rows, 5, generator=torch.Generator().manual_seed(seed)) > zeros)
    values = values.to(dtype)
    torch.manual_seed(seed)
    estimate = unbiased_estimate(values, found)
    assert estimate.dtype == dtype
    assert estimate.shape == values.shape
    for start in range(0, rows, found.m):
        group, kept = values[start : start + found.m], estimate[start : start + found.m]
        assert ((kept != 0).sum(0) <= found.n).all()
        few = (group != 0).sum(0) <= found.n
        assert torch.equal(kept[:, few], group[:, few])  # nothing has to be left out
    assert (estimate[values == 0] == 0).all()
    assert (estimate.abs() >= values.abs() * 0.99)[estimate != 0].all()
    assert (estimate.sign() == values.sign())[estimate != 0].all()


@pytest.mark.parametrize("pattern", ["1:2", "2:4", "4:8"])
def test_the_mean_of_many_estimates_is_the_gradient(pattern):
    found = Pattern.parse(pattern)
    values = drawn(found.m, 1)
    torch.manual_seed(1)
    many = unbiased_estimate(values.expand(found.m, 40000), found)
    error = many.double().std(1) / 40000**0.5
    assert ((many.double().mean(1) - values[:, 0]).abs() <= 5 * error + 1e-6).all()
    # Exactly n are drawn, never one less by a rounded sum.
    assert ((many != 0).sum(0) == found.n).all()


@given(seed=st.integers(0, 2**16), n=st.integers(1, 3))
def test_no_other_probabilities_have_less_variance(seed, n):
    size = drawn(1, 4, 1, seed=seed).abs().double()
    chance = _inclusion(size, n)
    assert float(chance.sum()) == pytest.approx(n)
    assert (chance > 0).all()
    assert (chance <= 1).all()

    def variance(p):
        return float((size**2 * (1 / p - 1)).sum())

    generator = torch.Generator().manual_seed(seed)
    for _ in range(20):
        # Any others that sum to n and lie in (0, 1]: steps between two entries.
        i, j = torch.randperm(4, generator=generator)[:2].tolist()
        other = chance.clone()
        step = 0.5 * min(float(1 - other[0, i, 0]), float(other[0, j, 0]))
        other[0, i, 0] += step
        other[0, j, 0] -= step
        assert variance(other) >= variance(chance) * (1 - 1e-9)


def test_layers_learn_from_estimates_that_are_right_on_average():
    model = mlp(dtype=torch.float64)
    sparsifier = sparsify(model, "2:4")
    exact = copy.deepcopy(model)
    assert estimate_gradients(sparsifier) == ["0.weight", "2.weight"]
    x = drawn(16, 8).double()

    def gradients(model):
        model.zero_grad()
        model(x).square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    assert torch.allclose(model(x), exact(x))
    wanted = gradients(exact)
    torch.manual_seed(0)
    many = [gradients(model) for _ in range(2000)]
    for i, right in enumerate(wanted):
        found = torch.stack([one[i] for one in many])
        error = found.std(0) / len(many) ** 0.5
        assert ((found.mean(0) - right).abs() <= 6 * error + 1e-9).all()
        if right.ndim == 2:  # biases learn from the whole gradient
            assert found.std(0).max() > 0
    twin = copy.deepcopy(model)
    with torch.no_grad():
        model[0].parametrizations.weight.original.zero_()
    assert not torch.equal(twin(x), model(x))  # the copy's forward is bound to the copy
    exact_gradients(model)
    assert "forward" not in vars(model[0])


def test_only_linear_layers_take_estimates():
    model = nn.Sequential(nn.Conv2d(8, 8, 3))
    with pytest.raises(InvalidProblemError, match=r"no masked layer is an nn\.Linear"):
        estimate_gradients(sparsify(model, "2:4"))

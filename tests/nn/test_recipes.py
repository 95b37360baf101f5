"""The recipe as one call: its phases, its cost, and what a whole training by it ends with."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tmask
from tests.nn.models import mlp
from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn import Frozen, export, transposable, transposable_recipe

TARGET = Pattern(2, 4)


@given(every=st.integers(1, 50), more=st.integers(0, 1000), end=st.sampled_from(["sparse", "dense"]))
def test_the_phases_follow_one_another_for_any_number_of_steps(every, more, end):
    steps = 8 * every + more
    recipe = transposable_recipe(steps, end=end, every=every)
    schedule = recipe.schedule
    patterns = [schedule.pattern_at(step, TARGET) for step in range(steps + 1)]
    at_target = sum(pattern == TARGET for pattern in patterns[:-1])
    assert patterns[0] is None or schedule.begin == 0
    assert at_target / steps == pytest.approx(recipe.share_at_target, abs=2 * every / steps)
    assert at_target
    last = max(step for step in range(steps + 1) if schedule.renews_at(step))
    assert last < steps  # nothing would train the masks of a later one
    assert (patterns[steps - 1] is None) == (end == "dense")


@pytest.mark.parametrize("end", ["sparse", "dense"])
def test_a_whole_training(end):
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    seen = []

    def look(renewal):
        seen.append((renewal.step, renewal.layers[0].pattern))

    sparsifier = transposable(model, "4:8", optimizer=optimizer, steps=40, every=2, end=end, on_renewal=look)
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    weights = []
    for _ in range(40):
        weights.append(model[0].weight.detach().clone())
        optimizer.zero_grad()
        (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
    numbers = [pattern.n for _, pattern in seen if pattern is not None]
    assert sorted(numbers, reverse=True) == numbers
    assert {4, 8} < set(numbers)  # n falls step by step
    if end == "sparse":
        tmask.check_mask(export(model)[0].weight != 0, "4:8", at_most=True)
        return
    tail = sparsifier.schedule.dense_from
    # The tail begins with what multiplied, to within a step of the optimizer.
    assert (weights[tail] - weights[tail - 1]).abs().max() < 0.05
    assert (weights[-1] != 0).all()


def test_arguments_of_sparsify_replace_the_recipes_own():
    sparsifier = transposable(mlp(), optimizer=None, steps=80, every=10, schedule=Frozen(), exclude=["2"])
    assert sparsifier.schedule == Frozen()
    assert len(sparsifier.layers) == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"steps": 100}, "100 steps are fewer than 8 renewals, one every 40 steps.* give every=12 or less"),
        ({"steps": 100, "every": 10, "end": "half"}, "end must be one of sparse, dense"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"steps": 100, "every": 0}, "every must be an integer of at least 1"),
    ],
)
def test_what_has_no_phases_is_refused(options, text):
    with pytest.raises(InvalidProblemError, match=text):
        transposable_recipe(**options)

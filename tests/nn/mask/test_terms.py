"""A mask is judged by what it was found under, wherever it is loaded, exported or baked."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import tmask
from tests.nn.models import mlp, train
from tmask import nn as tnn
from tmask.nn.mask.cutting import Cutting
from tmask.nn.mask.terms import Terms

SPOILT = "layer '0.weight': the mask is not the 2:4 one that was found: "


def fits(terms, mask):
    try:
        terms.check(mask, "x")
    except tmask.InvalidMaskError:
        return False
    return True


@given(
    rows=st.integers(2, 9),
    cols=st.integers(1, 9),
    groups=st.integers(1, 3),
    kernel=st.sampled_from([(), (2,)]),
    pattern=st.sampled_from([tmask.Pattern(2, 4), tmask.Pattern(2, 3)]),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
@settings(max_examples=40)
def test_masks_that_were_found_pass_and_edited_ones_do_not(rows, cols, groups, kernel, pattern, seed, data):
    weight = torch.randn(rows * groups, cols, *kernel, generator=torch.Generator().manual_seed(seed))
    mask = tmask.solve(weight, pattern, groups=groups, layout="convolution").mask
    whole, short = (Terms(pattern, pattern, Cutting(groups), complete) for complete in (True, False))
    assert fits(whole, mask)
    place = tuple(data.draw(st.integers(0, side - 1)) for side in mask.shape)
    mask[place] = ~mask[place]
    try:
        tmask.check_mask(mask, pattern, groups=groups, layout="convolution")
        expected = True
    except tmask.InvalidMaskError:
        expected = False
    assert fits(whole, mask) == expected
    if not mask[place]:
        assert fits(short, mask)  # fewer is what a heuristic may leave
    elif min(rows, cols) >= pattern.m and rows % pattern.m == cols % pattern.m == 0:
        assert not fits(short, mask)


@pytest.mark.parametrize(
    "terms",
    [
        Terms(tmask.Pattern(2, 4)),
        Terms(tmask.Pattern(2, 8), tmask.Pattern(5, 8), Cutting(3), False),
        Terms(tmask.Pattern(2, 4), None, Cutting(stacked=True)),
    ],
)
def test_terms_survive_as_numbers(terms):
    assert Terms.of(terms.numbers(), "x") == terms


@pytest.mark.parametrize("numbers", [[2, 4, 2, 3, 1], [2, 4, 5, 4, 1, 1], []])
def test_numbers_that_are_no_terms_are_an_error(numbers):
    with pytest.raises(tmask.InvalidProblemError, match=r"layer 'x': .* are no pattern of a mask"):
        Terms.of(numbers, "x")


def test_a_dense_phase_prunes_nothing():
    mask = torch.ones(4, 4, dtype=torch.bool)
    assert fits(Terms(tmask.Pattern(2, 4)), mask)
    mask[1, 2] = False
    assert not fits(Terms(tmask.Pattern(2, 4)), mask)


def test_groups_that_do_not_divide_the_rows_are_no_terms_of_this_mask():
    assert not fits(Terms(tmask.Pattern(2, 4), tmask.Pattern(2, 4), Cutting(3)), torch.ones(4, 4, dtype=torch.bool))


class Buffers:
    """torch's moving average, of buffers too."""

    def __init__(self, model):
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
        self.model = self.average.module

    def update(self, model):
        self.average.update_parameters(model)


class Copied(Buffers):
    """torch's moving average of parameters, which copies buffers."""

    def __init__(self, model):
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
        self.model = self.average.module


class State:
    """The moving average of a whole state dict."""

    def __init__(self, model):
        self.model = copy.deepcopy(model)

    @torch.no_grad()
    def update(self, model):
        for own, new in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            own.copy_(0.99 * own + 0.01 * new)


def averaged(kind):
    """The averaged copy of a model whose masks change at every step, and the model."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 5.0)
    tnn.sparsify(model, schedule=tnn.Periodic(every=1), optimizer=optimizer)
    average = kind(model)
    for step in range(8):
        train(model, optimizer, 1, step)
        average.update(model)
    return average.model, model


@pytest.mark.parametrize("kind", [Buffers, State])
def test_averaged_masks_are_refused_wherever_they_go(kind):
    average, model = averaged(kind)
    state = copy.deepcopy(average.state_dict())
    fresh = mlp()
    tnn.sparsify(fresh)
    for call in (
        lambda: tnn.export(average),
        lambda: tnn.export_state_dict(average),
        lambda: tnn.bake(state),
        lambda: fresh.load_state_dict(state),
    ):
        with pytest.raises(tmask.InvalidMaskError, match=SPOILT + ".* keeps [34] of .*average parameters alone"):
            call()
    assert average.state_dict().keys() == state.keys()  # export has changed nothing
    for own, new in zip(average.buffers(), model.buffers(), strict=True):
        own.copy_(new)
    tmask.check_mask(tnn.export(average)[0].weight != 0, "2:4")


def test_a_moving_average_of_parameters_keeps_the_masks_of_the_model():
    average, model = averaged(Copied)
    for own, new in zip(average.buffers(), model.buffers(), strict=True):
        assert torch.equal(own, new)
    tmask.check_mask(tnn.export(average)[0].weight != 0, "2:4")


def test_masks_in_a_state_are_not_believed():
    model = mlp()
    tnn.sparsify(model)
    for name, tensor in (state := model.state_dict()).items():
        if name.endswith("mask"):
            state[name] = torch.ones_like(tensor)
    before = model[0].weight.clone()
    with pytest.raises(tmask.InvalidMaskError, match=SPOILT + "row 0 keeps 4 of columns 0 to 3"):
        model.load_state_dict(state)
    assert torch.equal(model[0].weight, before)


def test_a_heuristic_that_leaves_rows_short_is_exported_saved_and_loaded():
    model, fresh = nn.Linear(32, 32), nn.Linear(32, 32)
    tnn.sparsify(model, solver="greedy-keep")
    tnn.sparsify(fresh)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.weight, model.weight)
    with pytest.raises(tmask.InvalidMaskError):
        tmask.check_mask(tnn.export(fresh).weight != 0, "2:4")

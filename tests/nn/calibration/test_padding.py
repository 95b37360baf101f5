"""Padding that a batch's `attention_mask` tells of counts in no function that takes calibration data."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tmask.errors import InvalidProblemError
from tmask.nn import adaprune, collect_grams, convert, recalibrate, reconstruct, reconstruction_losses, sparsegpt
from tmask.nn.calibration.padding import without_padding

LENGTHS = [12, 3, 12, 5, 2]  # of 12 positions: 43 % padding


class Reader(nn.Module):
    """Tokens (B, T) -> (B, T, 5), each position for itself; a batch norm over all of them."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.up, self.norm, self.down = nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, input_ids, attention_mask=None):
        hidden = torch.relu(self.up(self.table(input_ids)))
        return self.head(self.down(self.norm(hidden.transpose(1, 2)).transpose(1, 2)))


def reader():
    torch.manual_seed(0)
    model = Reader().double().eval()
    with torch.no_grad():
        for weight in (model.up.weight, model.down.weight):
            weight[torch.rand(weight.shape) < 0.6] = 0  # for `convert`
    return model


def padded(side):
    """One padded batch, the same sequences one by one, and those without a mask."""
    generator = torch.Generator().manual_seed(1)
    whole = torch.randint(1, 20, (len(LENGTHS), 12), generator=generator)
    ids, mask = torch.zeros_like(whole), torch.zeros_like(whole)
    for row, length in enumerate(LENGTHS):
        place = slice(12 - length, 12) if side == "left" else slice(0, length)
        ids[row, place], mask[row, place] = whole[row, :length], 1
    alone = [{"input_ids": whole[row : row + 1, :length]} for row, length in enumerate(LENGTHS)]
    return [{"input_ids": ids, "attention_mask": mask}], alone, [{"input_ids": ids}]


MASK = {"up": torch.eye(16, dtype=torch.bool), "down": torch.eye(16, dtype=torch.bool)}
FUNCTIONS = {
    "adaprune": lambda model, data: adaprune(model, data, "2:4", score="wanda"),
    "adaprune of all at once": lambda model, data: adaprune(model, data, "2:4", score="obs", sequential=False),
    "sparsegpt": lambda model, data: sparsegpt(model, data, "2:4"),
    "convert": lambda model, data: convert(model, data, m=4, score="wanda"),
    "reconstruct": lambda model, data: reconstruct(model, data, MASK),
    "recalibrate": recalibrate,
    "collect_grams": lambda model, data: collect_grams(model, data),
    "reconstruction_losses": lambda model, data: reconstruction_losses(model, data, ["2:4"], score="wanda"),
}


def found(function, data):
    """All numbers that a function leaves behind, in the model and in what it returns."""
    model = reader()
    result = FUNCTIONS[function](model, data)
    numbers = [*model.state_dict().values()]
    if function == "collect_grams":
        numbers += [gram.xx for gram in result.values()]
    if function == "reconstruction_losses":
        numbers += [torch.tensor([*losses.values()]) for losses in result.values()]
    return [number.double() for number in numbers]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_padding_counts_in_no_function(function, side):
    with_mask, alone, without = (found(function, data) for data in padded(side))
    for one, other in zip(with_mask, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
    # A batch without a mask is read whole.
    assert any(not torch.allclose(a, b, rtol=1e-4) for a, b in zip(with_mask, without, strict=True))


def test_a_mask_of_ones_and_no_mask_are_one():
    _, _, without = padded("right")
    ones = [batch | {"attention_mask": torch.ones_like(batch["input_ids"])} for batch in without]
    for one, other in zip(found("sparsegpt", ones), found("sparsegpt", without), strict=True):
        assert torch.equal(one, other)


def test_padding_inside_a_sequence_is_refused():
    batch = padded("right")[0][0]
    mask = torch.ones_like(batch["attention_mask"])
    mask[2, 4] = 0
    model = reader()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InvalidProblemError, match="batch 0: sequence 2 has padding inside"):
        adaprune(model, [batch | {"attention_mask": mask}], "2:4")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_sequence_that_is_all_padding_is_dropped():
    ids = torch.arange(12).reshape(3, 4)
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0]])
    (part,) = without_padding({"input_ids": ids, "attention_mask": mask}, 0)
    assert torch.equal(part["input_ids"], ids[[0, 2], :3])


def test_entries_are_cut_where_they_have_positions():
    batch = {
        "input_ids": torch.arange(12).reshape(3, 4),
        "attention_mask": torch.tensor([[True, True, False, False]] * 3),
        "position_ids": torch.arange(4)[None],
        "cache_position": torch.arange(4),
        "labels": torch.arange(3),
        "use_cache": False,
    }
    (part,) = without_padding(batch, 0)
    assert torch.equal(part["input_ids"], batch["input_ids"][:, :2])
    assert torch.equal(part["position_ids"], torch.arange(2)[None])
    assert torch.equal(part["cache_position"], torch.arange(2))
    assert torch.equal(part["labels"], batch["labels"])
    assert part["use_cache"] is False


def test_encoder_and_decoder_are_cut_by_their_own_masks():
    ids = torch.arange(12).reshape(3, 4)
    batch = {
        "input_ids": ids,
        "attention_mask": torch.tensor([[1, 1, 1, 0]] * 3),
        "decoder_input_ids": ids,
        "decoder_attention_mask": torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]]),
        "labels": ids,
    }
    first, second = without_padding(batch, 0)
    assert torch.equal(first["input_ids"], ids[[0, 2], :3])
    assert torch.equal(first["decoder_input_ids"], ids[[0, 2], :1])
    assert torch.equal(second["labels"], ids[[1], :2])

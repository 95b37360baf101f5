"""Fused experts under masks: each matrix of a stack is tiled for itself, in training, checkpoints and exports."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import tmask
from tmask import nn as tnn
from tmask.nn.mask.registration import masked_of

pytest.importorskip("transformers")
from tests.nn.blockwise.tiny_models import make, outputs, tokens

NAMES = ["gpt_oss", "llama4_text", "mixtral", "qwen3_moe"]


def stacks(model):
    return [name for name, p in model.named_parameters() if p.ndim == 3]


def loss(model, seed=0):
    (batch,) = tokens(1, seed=seed)
    return model(**batch, labels=batch["input_ids"]).loss


def train(model, optimizer, steps, first=0):
    for step in range(first, first + steps):
        optimizer.zero_grad()
        loss(model, step).backward()
        optimizer.step()


def training(name, **options):
    model = make(name, torch.float32, tie_word_embeddings=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    options = {"schedule": tnn.Periodic(every=2), **options}
    return model, optimizer, tnn.sparsify(model, "2:4", optimizer=optimizer, **options)


@pytest.mark.parametrize("name", NAMES)
def test_each_matrix_of_a_stack_has_the_mask_of_its_own(name):
    model = make(name)
    known = {stack: model.get_parameter(stack).detach().clone() for stack in stacks(model)}
    assert len(known) >= 2
    report = {row.layer: row for row in tnn.sparsify(model, "2:4").report()}
    for stack, weight in known.items():
        module, _, tensor = stack.rpartition(".")
        mask = masked_of(model.get_submodule(module), tensor).mask
        for matrix, own in zip(weight, mask, strict=True):
            assert torch.equal(own, tmask.solve(matrix, "2:4").mask)
        assert torch.equal(getattr(model.get_submodule(module), tensor), torch.where(mask, weight, 0))
        assert report[stack].gap == 0
        assert report[stack].reason.startswith(f"stack of {len(weight)}")
    assert {name for name, p in make(name).named_parameters() if p.ndim > 1} <= {*report}


@pytest.mark.parametrize("name", NAMES)
def test_every_row_that_is_skipped_tells_why(name):
    report = tnn.sparsify(make(name), "2:4").report()
    reasons = {row.layer.split(".", 3)[-1]: row.reason for row in report if row.skipped}
    assert all(reasons.values())
    assert not any("no weight that a mask is known for" in reason for reason in reasons.values())
    if name == "gpt_oss":
        assert reasons["mlp.experts.gate_up_proj_bias"] == "a bias, by its name"
        assert reasons["mlp.router.weight"].startswith("it routes samples to experts (include it by")


@pytest.mark.parametrize("name", NAMES)
def test_stacks_train_renew_save_and_export(name):
    model, optimizer, sparsifier = training(name)
    stack = next(layer for layer in sparsifier.layers if layer.name in stacks(make(name)))
    before = stack.masked.mask.clone()
    train(model, optimizer, 4)
    assert sparsifier.metrics()["step"] == 4
    assert not torch.equal(stack.masked.mask, before)
    tmask.check_mask(stack.masked.mask, "2:4", layout="stack")

    other, again, resumed = training(name)
    other.load_state_dict(model.state_dict())
    again.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(sparsifier.state_dict())
    train(model, optimizer, 2, 4)
    train(other, again, 2, 4)
    for layer, twin in zip(sparsifier.layers, resumed.layers, strict=True):
        assert torch.equal(layer.masked.mask, twin.masked.mask)

    expected = outputs(model, tokens(1))
    state, baked = tnn.export_state_dict(model), tnn.bake(model.state_dict())
    sparsifier.unwatch()
    tnn.export(model)
    assert {*model.state_dict()} == {*make(name, tie_word_embeddings=False).state_dict()} == {*state} == {*baked}
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[key])
        assert torch.equal(tensor, baked[key])
    assert torch.equal(outputs(model, tokens(1)), expected)
    for key in stacks(model):
        assert (model.get_parameter(key) != 0).float().mean() == 0.5


def test_masks_of_a_pruning_go_into_training():
    model = make("gpt_oss")
    report = tnn.adaprune(model, tokens(2), "2:4", sequential=False, include=["model.layers.*.mlp.experts"])
    sparsifier = tnn.sparsify(model, "2:4", include=["model.layers.*.mlp.experts"], masks=report.masks)
    assert {layer.name for layer in sparsifier.layers} == {*report.masks}
    for layer in sparsifier.layers:
        assert torch.equal(layer.masked.mask, report.masks[layer.name])


def test_a_stack_goes_back_to_what_it_was():
    model = make("gpt_oss")
    twin = copy.deepcopy(model)
    sparsifier = tnn.sparsify(model, "2:4", keep_zeros=True)
    sparsifier.remove()
    assert [*model.state_dict()] == [*twin.state_dict()]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_mask_of_a_stack_that_was_edited_is_refused():
    model = make("gpt_oss")
    tnn.sparsify(model, "2:4")
    name = "model.layers.0.mlp.experts.down_proj"
    masked_of(model.get_submodule(name.rpartition(".")[0]), "down_proj").mask[2, 5, :4] = True
    with pytest.raises(
        tmask.InvalidMaskError, match=rf"layer '{name}': .* row 5 of matrix 2 keeps 4 of columns 0 to 3"
    ):
        tnn.export(model)


def test_a_stack_is_read_once_in_a_forward_pass_under_torchs_cache():
    """Where experts are called in a loop, each asks for the whole stack."""
    model = make("gpt_oss", torch.float32)
    model.set_experts_implementation("eager")
    tnn.sparsify(model, "2:4")
    (batch,) = tokens(1)
    with torch.no_grad():
        plain = model(**batch).logits
        with parametrize.cached():
            assert torch.equal(model(**batch).logits, plain)


def test_packing_says_why_it_takes_no_stack():
    model = make("mixtral", torch.float32)
    row = next(row for row in tnn.sparsify(model, "2:4").report() if row.layer.endswith("gate_up_proj"))
    assert "semi_structured takes nn.Linear alone, not gate_up_proj of MixtralExperts" in row.reason
    with pytest.raises(tmask.InvalidProblemError, match=r"semi_structured takes nn.Linear alone, not gate_up_proj"):
        tnn.sparsify(make("mixtral"), "2:4", include=["*.experts"], backend="semi_structured")


class Experts(nn.Module):
    """A stack that only the config knows, a convolution's weight that nobody knows, a narrow stack."""

    def __init__(self):
        super().__init__()
        self.w1, self.filters = nn.Parameter(torch.randn(3, 8, 16)), nn.Parameter(torch.randn(8, 8, 3))
        self.experts_small = nn.Parameter(torch.randn(3, 8, 2))
        self.conv = nn.Conv1d(8, 8, 3)
        self.config = {"num_experts": 3}


def test_a_stack_is_told_by_its_name_or_by_the_config():
    torch.manual_seed(0)
    report = {row.layer: row for row in tnn.sparsify(Experts(), "2:4").report()}
    assert report["w1"].reason.startswith("stack of 3")
    assert report["filters"].reason == "filters of Experts is no weight that a mask is known for"
    assert report["experts_small"].reason == "8 x 2 is smaller than a block of 4 x 4"
    assert not report["conv.weight"].skipped

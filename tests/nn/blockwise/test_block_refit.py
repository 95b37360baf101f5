"""Block refit: where it applies, that it is the least-squares fit on the masks, and what it leaves as it is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

from tests.nn.blockwise.test_directory import Stop, contents, prune, saved, stop_at  # noqa: F401
from tests.nn.blockwise.tiny_models import make, outputs, stack, tokens
from tmask.errors import InvalidProblemError
from tmask.nn import BlockRefit, Tuning, prune_blocks
from tmask.nn.blockwise import block_refit
from tmask.nn.blockwise.block_refit import BlockRefitting
from tmask.nn.blockwise.calls import BlockCall, enter
from tmask.nn.blockwise.stream import find_joints, run_to
from tmask.nn.calibration.experts import one_by_one

# What is added to the hidden states, and who reads the sum first.
LLAMA = [("self_attn.o_proj.weight", "post_attention_layernorm"), ("mlp.down_proj.weight", "")]
JOINTS = {
    "llama": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "mistral": LLAMA,
    "gpt2": [("attn.c_proj.weight", "ln_2"), ("mlp.c_proj.weight", "")],
    "opt": [("self_attn.out_proj.weight", "final_layer_norm"), ("fc2.weight", "")],
    # What several experts give together is no matrix's.
    "mixtral": LLAMA[:1],
    "qwen2_moe": LLAMA[:1],
    "gpt_oss": LLAMA[:1],
    # These norm what they add, or the sum.
    "gemma2": [],
    "gemma3_text": [],
    "bert": [],
}


@pytest.mark.parametrize("name", JOINTS)
def test_where_matrices_add_to_the_hidden_states(name):
    model, (batch, *_) = make(name), tokens()
    blocks = model.get_submodule("encoder.layer" if name == "bert" else _blocks(name))
    with one_by_one(model):
        (entry,) = enter(model, blocks, [batch])
        found = find_joints(blocks[0], entry.calls[0], entry.hidden)
    assert [(str(joint.key), joint.reader) for joint in found] == JOINTS[name]


def _blocks(name):
    return {"gpt2": "transformer.h", "opt": "model.decoder.layers"}.get(name, "model.layers")


@pytest.mark.parametrize("name", ["gemma2", "bert"])
def test_models_without_such_matrices_are_refused(name):
    with pytest.raises(InvalidProblemError, match=r"layers?.0: block refit needs a matrix"):
        prune_blocks(make(name), tokens(), "2:4", method="wanda", block_refit=BlockRefit())
    with pytest.raises(InvalidProblemError, match=r"^0: block refit needs a matrix"):
        prune_blocks(stack(), [torch.randn(9, 8).double()], "2:4", method="wanda", block_refit=BlockRefit())


@pytest.fixture
def refits(monkeypatch):
    """Each refit as it happens: the mask, and the weight, its inputs and what is missing, before it and after."""
    seen = []
    real = BlockRefitting._refit

    def noting(self, joint, mask):
        def fitted():
            block = self.pruned.block
            pairs = [
                (
                    run_to(joint, block, call, self.pruned.states[number]),
                    run_to(joint, self.dense.block, call, self.dense.states[number]),
                )
                for number, call in enumerate(self.calls)
            ]
            inputs = torch.cat([own[0] for own, _ in pairs])
            missing = torch.cat([dense[1] - own[1] for own, dense in pairs])
            weight = block.get_parameter(joint.key.parameter).detach().clone()
            return weight if joint.outputs_first else weight.T, inputs, missing

        before = fitted()
        real(self, joint, mask)
        kept = mask if joint.outputs_first else mask.T
        seen.append((f"{self.prefix}{joint.key}", kept, before, fitted(), self.settings))

    monkeypatch.setattr(BlockRefitting, "_refit", noting)
    return seen


CONTRACT = ("llama", "gpt2", "opt", "mixtral")


@pytest.mark.parametrize("goal", ["dense", "layer"])
@pytest.mark.parametrize("name", CONTRACT)
def test_no_step_is_for_the_worse_and_masks_stay(name, goal, refits):
    model, data = make(name), tokens()
    report = prune_blocks(model, data, "2:4", method="wanda", goal=goal, block_refit=BlockRefit())
    assert len(refits) == 2 * len(JOINTS[name])
    for key, kept, (old, _, before), (new, _, after), _ in refits:
        assert float(after.square().sum()) < float(before.square().sum()), key
        assert bool((new[~kept] == 0).all()), key
        assert not bool(torch.signbit(new[~kept]).any()), key
        assert not torch.equal(new, old), key
    for key, mask in report.masks.items():
        weight = model.get_parameter(key)
        assert bool((weight[~mask] == 0).all())
        assert bool((weight[mask] != 0).all())


@pytest.mark.parametrize("name", CONTRACT[:3])
def test_each_output_is_the_damped_least_squares_fit(name, refits, monkeypatch):
    exact = block_refit.Refit(by="cholesky")
    monkeypatch.setattr(block_refit, "Refit", lambda: exact)
    settings = BlockRefit(damping=0.02, shrinkage=0.3)
    prune_blocks(make(name), tokens(), "2:4", method="wanda", block_refit=settings)
    for key, kept, (old, inputs, missing), (new, _, after), _ in refits:
        biased = name != "llama"
        x = inputs - inputs.mean(0) if biased else inputs
        e = missing - missing.mean(0) if biased else missing
        squares = x.square().mean(0)
        penalty = (0.3 * squares + 0.02 * squares.mean()) * len(x)
        for row in range(0, len(new), 5):
            own = kept[row]
            above = torch.cat([x[:, own], penalty[own].sqrt().diag()])
            right = torch.cat([e[:, row], torch.zeros(int(own.sum()), dtype=e.dtype)])
            change = torch.linalg.lstsq(above, right[:, None]).solution[:, 0]
            torch.testing.assert_close(new[row, own] - old[row, own], change, rtol=1e-6, atol=1e-9, msg=key)
        if biased:
            assert float(after.mean(0).abs().max()) < 1e-12


def test_blocks_end_nearer_to_the_dense_model():
    dense, data = make("llama"), tokens()
    target = outputs(dense, data)
    missed, behind = [], []
    for settings in ({}, {"block_refit": BlockRefit()}, {"block_refit": BlockRefit(), "tuning": Tuning(epochs=4)}):
        model = copy.deepcopy(dense)
        report = prune_blocks(model, data, "2:4", method="wanda", **settings)
        missed.append(float((outputs(model, data) - target).square().sum()))
        behind.append(report.blocks[-1].error)
    assert behind[0] > behind[1] > behind[2]
    assert missed[0] > missed[1] > missed[2]


def test_at_once_each_sublayer_is_refitted_after_the_matrices(refits):
    model, data = make("llama"), tokens()
    prune_blocks(model, data, "2:4", method="wanda", by_stage=False, block_refit=BlockRefit())
    assert [key.split(".", 3)[3] for key, *_ in refits[:2]] == [parameter for parameter, _ in LLAMA]
    assert all(
        float(after.square().sum()) < float(before.square().sum()) for *_, (_, _, before), (_, _, after), _ in refits
    )


def test_only_what_was_pruned_is_refitted(refits):
    model, dense = make("llama"), make("llama")
    prune_blocks(model, tokens(), "2:4", method="wanda", exclude=["*.o_proj"], block_refit=BlockRefit())
    assert [key for key, *_ in refits] == [f"model.layers.{index}.mlp.down_proj.weight" for index in range(2)]
    name = "model.layers.0.self_attn.o_proj.weight"
    assert torch.equal(model.get_parameter(name), dense.get_parameter(name))


class Sum(nn.Module):
    """A block that uses the matrix of its sum twice."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return x + self.linear(torch.relu(self.linear(x)))


def test_a_matrix_that_is_used_twice_is_none_of_them():
    assert find_joints(Sum().double(), BlockCall((), {}), torch.randn(5, 8).double()) == []


def test_a_run_that_was_stopped_goes_on(saved, tmp_path):  # noqa: F811
    path = saved(dtype=torch.bfloat16, num_hidden_layers=3)
    settings = {"dtype": torch.float32, "block_refit": BlockRefit()}
    prune(path, tmp_path / "whole", **settings)
    for block in (1, 2):
        with pytest.raises(Stop):
            prune(path, tmp_path / "out", **settings, progress=stop_at(block))
    prune(path, tmp_path / "out", **settings)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    prune(path, tmp_path / "without", dtype=torch.float32)
    assert contents(tmp_path / "without")[0] != contents(tmp_path / "whole")[0]


@pytest.mark.parametrize(("settings", "text"), [({"damping": 0}, "damping 0"), ({"shrinkage": -1}, "shrinkage -1")])
def test_settings_that_cannot_be_meant(settings, text):
    with pytest.raises(InvalidProblemError, match=text):
        BlockRefit(**settings)

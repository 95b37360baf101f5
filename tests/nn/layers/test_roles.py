"""What stays dense by default is the same in training, in pruning and in files; whoever asks for it gets it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import tmask
from tests.nn.models import batch
from tmask import nn as tnn
from tmask.files.layers import select_layers
from tmask.files.opening import open_weights


def tiny(name, **settings):
    pytest.importorskip("transformers")
    from tests.nn.blockwise.tiny_models import make

    return make(name, torch.float32, **settings)


def rows(model, **options):
    return {row.layer: row for row in tnn.sparsify(model, "2:4", **options).report()}


def masked(model, **options):
    return {name for name, row in rows(model, **options).items() if not row.skipped}


MODELS = ["llama", "gpt2", "opt", "bert", "mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "llama4_text"]


@pytest.mark.parametrize("name", MODELS)
def test_training_and_files_have_the_same_defaults(name, tmp_path):
    """On untied models, where nothing but the rule keeps the head dense."""
    model = tiny(name, tie_word_embeddings=False)
    if name == "gpt2":  # whose causal masks and tied head are in no file
        model.config.tie_word_embeddings = False
    torch.save(model.state_dict(), tmp_path / "model.pt")
    model.config.save_pretrained(tmp_path)
    selection = select_layers(open_weights(tmp_path / "model.pt"), side=4)
    assert masked(model) == {layer.name for layer in selection.layers}


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "gpt_oss", "llama4_text"])
def test_routers_and_heads_stay_dense_with_their_reasons(name):
    model = tiny(name, tie_word_embeddings=False)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    found = rows(model)
    assert found["lm_head.weight"].reason == "the output head, by its name (include it to mask it)"
    routers = [key for key in found if key.endswith((".gate.weight", "router.weight"))]
    assert routers
    for key in routers:
        assert found[key].skipped
        assert "routes samples to experts" in found[key].reason
        assert torch.equal(model.get_parameter(key), before[key])


def test_whoever_asks_for_a_head_or_a_router_gets_it():
    head, gate = "lm_head.weight", "model.layers.0.mlp.gate.weight"

    def found(**options):
        return masked(tiny("mixtral", tie_word_embeddings=False), **options) & {head, gate}

    assert found() == set()
    assert found(include=["*"]) == set()
    assert found(include=["*", "lm_head"]) == {head}
    assert found(include=["*", "lm*"]) == {head}
    assert found(include=["*", "model.layers*"]) == set()  # nobody meant routers by it
    assert found(include=["*", gate]) == {gate}
    assert found(include=["*", "model.layers.0.mlp.gate"]) == {gate}
    mask = tmask.solve(torch.rand(64, 16), "2:4").mask
    assert found(masks={"lm_head": mask}) == {head}
    model = tiny("mixtral", tie_word_embeddings=False)
    sparsifier = tnn.sparsify(model, {"lm_head": "1:4", "*": "2:4"})
    assert str(next(row for row in sparsifier.report() if row.layer == head).pattern) == "1:4"


def test_advice_helps():
    model = tiny("mixtral", tie_word_embeddings=False)
    advised = [name for name, row in rows(model).items() if "to mask it)" in row.reason]
    assert len(advised) == 3  # the head and a router in each block
    for name in advised:
        assert name in masked(tiny("mixtral", tie_word_embeddings=False), include=["*", name])


def test_advice_is_not_given_where_it_would_not_help():
    assert rows(nn.ModuleDict({"classifier": nn.Linear(8, 3), "body": nn.Linear(8, 8)}))[
        "classifier.weight"
    ].reason == ("3 x 8 is smaller than a block of 4 x 4")


class Language(nn.Module):
    """Names without a word on what they are, but for the shape of the head."""

    def __init__(self):
        super().__init__()
        self.encoder, self.body, self.decoder = nn.Embedding(12, 8), nn.Linear(8, 8), nn.Linear(8, 12)


def test_a_head_is_told_by_the_shape_of_an_embedding():
    assert masked(Language()) == {"body.weight"}
    assert masked(nn.ModuleDict({"body": nn.Linear(8, 8), "decoder": nn.Linear(8, 12)})) == {
        "body.weight",
        "decoder.weight",
    }


def test_a_network_called_after_what_it_makes_is_masked():
    model = nn.ModuleDict({"embedding_net": nn.ModuleDict({"body": nn.Sequential(nn.Linear(8, 8))})})
    assert masked(model) == {"embedding_net.body.0.weight"}


def test_what_is_put_around_a_layer_does_not_hide_its_role():
    model = nn.ModuleDict({"lm_head": nn.ModuleDict({"base_layer": nn.Linear(8, 16)}), "body": nn.Linear(8, 8)})
    assert masked(model) == {"body.weight"}


def test_the_config_says_that_there_are_experts():
    model = nn.ModuleDict({"mlp": nn.ModuleDict({"gate": nn.Linear(8, 8), "up": nn.Linear(8, 8)})})
    assert masked(model) == {"mlp.gate.weight", "mlp.up.weight"}
    model = nn.ModuleDict({"mlp": nn.ModuleDict({"gate": nn.Linear(8, 8), "up": nn.Linear(8, 8)})})
    model.config = SimpleNamespace(to_dict=lambda: {"text_config": {"num_local_experts": 8}})
    assert masked(model) == {"mlp.up.weight"}


class Moe(nn.Module):
    """A head that is not called last, and a router under a name of its own."""

    def __init__(self):
        super().__init__()
        self.moe_gate, self.experts = nn.Linear(8, 4), nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.lm_head, self.value = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        weights = self.moe_gate(x).softmax(-1)
        mixed = sum(expert(x) * weights[..., :1] for expert in self.experts)
        return self.value(self.lm_head(mixed))


@pytest.mark.parametrize("prune", [tnn.adaprune, tnn.sparsegpt])
def test_pruning_holds_back_what_training_holds_back(prune):
    data = [batch((16, 8), seed) for seed in range(3)]
    torch.manual_seed(0)
    report = prune(Moe(), data, "2:4")
    assert report.skipped == {
        "moe_gate.weight": "it routes samples to experts (include it by its full name to prune it)",
        "lm_head.weight": "the output head, by its name (include it to prune it)",
        "value.weight": "the classifier (include it to prune it)",
    }
    assert "lm_head.weight" in prune(Moe(), data, "2:4", skip_ends=False).masks
    assert {*prune(Moe(), data, "2:4", include=["moe_gate"]).masks} == {"moe_gate.weight"}
    assert "moe_gate.weight" not in prune(Moe(), data, "2:4", include=["*"]).masks


def test_blocks_hold_back_routers_until_a_pattern_names_them():
    torch.manual_seed(0)
    data = [batch((16, 8), seed) for seed in range(3)]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.moe_gate, self.experts = nn.Linear(8, 8), nn.ModuleList([nn.Linear(8, 8)])

        def forward(self, x):
            return self.experts[0](x) * self.moe_gate(x).softmax(-1)

    def pruned(pattern):
        return {*tnn.prune_blocks(nn.Sequential(Block(), Block()), data, pattern, transposable=True).masks}

    assert not any("gate" in name for name in pruned("2:4"))
    assert {name for name in pruned({"1.moe_gate": "2:4", "*": "2:4"}) if "gate" in name} == {"1.moe_gate.weight"}

"""Adapters of peft itself, on tiny random models: left out by default, merged into the dense weights under masks."""

import re
from pathlib import Path

import peft
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import tmask
from tmask import nn as tnn

PAGE = (Path(__file__).parents[3] / "docs/how-to/lora.md").read_text()
Q_V = ["q_proj", "v_proj"]
# Of the same shape, for kinds that share their factors among layers.
Q_O = ["q_proj", "o_proj"]
KINDS = {
    "lora": peft.LoraConfig(r=4, target_modules=[*Q_V, "down_proj"]),
    "dora": peft.LoraConfig(r=4, use_dora=True, target_modules=Q_V),
    "pissa": peft.LoraConfig(r=4, init_lora_weights="pissa", target_modules=Q_V),
    "olora": peft.LoraConfig(r=4, init_lora_weights="olora", target_modules=Q_V),
    "adalora": peft.AdaLoraConfig(total_step=10, init_r=4, target_r=2, tinit=0, tfinal=0, target_modules=Q_V),
    "ia3": peft.IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "loha": peft.LoHaConfig(r=4, target_modules=Q_V),
    "lokr": peft.LoKrConfig(r=4, target_modules=Q_V),
    "oft": peft.OFTConfig(r=0, oft_block_size=4, target_modules=Q_V),
    "boft": peft.BOFTConfig(boft_block_size=4, target_modules=Q_V),
    "vera": peft.VeraConfig(r=4, target_modules=Q_O),
    "hra": peft.HRAConfig(r=4, target_modules=Q_V),
    "fourierft": peft.FourierFTConfig(n_frequency=10, target_modules=Q_V),
    "randlora": peft.RandLoraConfig(r=4, target_modules=Q_O),
}
PROMPTS = {
    "p-tuning": peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=16),
    "prefix": peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=16
    ),
}
TOKENS = torch.arange(16).view(2, 8)


def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=32,
        max_position_embeddings=32,
    )
    return LlamaForCausalLM(config)


def stir(model):
    """Adapters begin where they change nothing; elsewhere, as after training."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return trained


def train(model):
    """A step on whatever is trained."""
    trained = stir(model)
    optimizer = torch.optim.SGD(trained, 0.5)
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    optimizer.step()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_merged_is_merged_under_the_mask(kind):
    dense, base = llama(), llama()
    sparsifier = tnn.sparsify(base, exclude=["lm_head"])
    with torch.no_grad():  # the same model, without any mask on it
        for layer in sparsifier.layers:
            dense.get_parameter(layer.name).copy_(torch.where(layer.masked.mask, layer.weight, 0))
    merged = []
    for model in (dense, base):
        torch.manual_seed(1)
        adapted = peft.get_peft_model(model, KINDS[kind])
        stir(adapted)  # the same; gradients would differ, since a mask does not hold for an adapter beside it
        merged.append(adapted.merge_and_unload())
    expected, found = merged
    changed = 0
    for layer in sparsifier.layers:
        mask, plain = layer.masked.mask, expected.get_parameter(layer.name).detach()
        torch.testing.assert_close(found.get_submodule(layer.name[:-7]).weight, torch.where(mask, plain, 0))
        changed += not torch.equal(plain, llama().get_parameter(layer.name) * mask)
    assert changed == 2 * len(KINDS[kind].target_modules)
    tnn.export(found)
    assert all(tmask.check_mask(found.get_parameter(layer.name) != 0, "2:4") is None for layer in sparsifier.layers)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [*KINDS, *PROMPTS])
def test_adapters_get_no_mask_and_are_listed(kind):
    plain = {layer.name.removesuffix(".weight") for layer in tnn.sparsify(llama()).layers}
    adapted = peft.get_peft_model(llama(), (KINDS | PROMPTS)[kind])
    own = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad and parameter.ndim > 1}
    report = tnn.sparsify(adapted).report()
    masked = {row.layer.replace(".base_layer", "") for row in report if not row.skipped}
    prefix = "base_model." if kind in PROMPTS else "base_model.model."
    assert {name.removeprefix(prefix).removesuffix(".weight") for name in masked} == plain
    reasons = {row.layer: row.reason for row in report if row.layer in own}
    assert reasons.keys() == own
    assert all("adapter" in reason for reason in reasons.values())


def test_adapters_that_are_asked_for_get_masks():
    adapted = peft.get_peft_model(llama(), peft.LoraConfig(r=4, target_modules=Q_V))
    factors = {name for name, _ in adapted.named_parameters() if "lora_A" in name}
    assert {layer.name for layer in tnn.sparsify(adapted, include=["*lora_A*"]).layers} == factors


def test_merging_and_taking_out_again_leaves_the_dense_weights():
    base = llama()
    layers = tnn.sparsify(base, schedule=tnn.Periodic()).layers
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=Q_V))
    train(adapted)
    before = {layer.name: layer.weight.detach().clone() for layer in layers}
    adapted.merge_adapter()
    assert any(not torch.equal(layer.weight, before[layer.name]) for layer in layers)
    adapted.unmerge_adapter()
    for layer in layers:  # also where the mask prunes
        torch.testing.assert_close(layer.weight, before[layer.name])
    adapted.merge_adapter(safe_merge=True)


def test_gpt2s_own_layers_are_merged_too():
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=32, n_positions=16))
    layers = {layer.name: layer for layer in tnn.sparsify(base).layers}
    layer = layers["transformer.h.0.attn.c_attn.weight"]
    before = layer.weight.detach().clone()
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))
    train(adapted)
    delta = adapted.base_model.model.transformer.h[0].attn.c_attn.get_delta_weight("default").detach()
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(layer.weight, before + delta)
    assert torch.equal(merged.transformer.h[0].attn.c_attn.weight, torch.where(layer.masked.mask, layer.weight, 0))


@pytest.mark.parametrize("prune", [tnn.adaprune, tnn.sparsegpt])
def test_adapters_are_not_pruned_layer_by_layer(prune):
    adapted = peft.get_peft_model(llama(), peft.LoraConfig(r=4, target_modules=Q_V))
    train(adapted)
    report = prune(adapted, [{"input_ids": TOKENS}], "2:4")
    factors = {name for name, module in adapted.named_modules() if ".lora_" in name and hasattr(module, "weight")}
    assert factors
    assert all("adapter" in report.skipped[name] for name in factors)
    assert any("q_proj.base_layer" in row.layer for row in report.layers)


def test_adapters_are_not_pruned_block_by_block():
    adapted = peft.get_peft_model(llama(), peft.LoraConfig(r=4, target_modules=Q_V))
    train(adapted)
    before = {name: value.clone() for name, value in adapted.named_parameters() if ".lora_" in name}
    report = tnn.prune_blocks(adapted, [{"input_ids": TOKENS}], "2:4", method="wanda")
    assert all("adapter" in report.skipped[name] for name in before)
    assert all(torch.equal(adapted.get_parameter(name), value) for name, value in before.items())
    assert any("q_proj.base_layer" in name for name in report.masks)


@pytest.mark.parametrize("index", [0, 1])
def test_the_page_runs(index):
    code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[index]
    names = {}
    exec(code, names)
    model = names["model"]
    untouched = names["LlamaForCausalLM"](model.config)
    for layer in names["sparsifier"].layers:
        weight = model.get_parameter(layer.name)
        tmask.check_mask(weight != 0, "2:4")
        assert weight.shape == untouched.get_parameter(layer.name).shape
        if index:
            assert torch.equal(weight != 0, names["report"].masks[layer.name])

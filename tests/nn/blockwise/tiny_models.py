"""Tiny random models of transformers, a kind each of what blocks look like, and tokens for them."""

from __future__ import annotations

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM

from tmask.nn.calibration.experts import one_by_one

VOCABULARY = 64
_COMMON = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_DECODER = _COMMON | {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
}
_EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
CONFIGS = {
    "llama": _DECODER,
    "qwen2": _DECODER,
    "qwen3": _DECODER,
    "mistral": _DECODER,
    "gemma2": _DECODER | {"query_pre_attn_scalar": 4, "sliding_window": 4},
    "gemma3_text": _DECODER | {"query_pre_attn_scalar": 4, "sliding_window": 4, "sliding_window_pattern": 2},
    "gpt2": _COMMON | {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "opt": _COMMON
    | {
        "hidden_size": 16,
        "ffn_dim": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 8,
    },
    "mixtral": _DECODER | _EXPERTS,
    "qwen2_moe": _DECODER
    | _EXPERTS
    | {"moe_intermediate_size": 12, "shared_expert_intermediate_size": 12, "decoder_sparse_step": 1},
    "qwen3_moe": _DECODER | _EXPERTS | {"moe_intermediate_size": 12, "decoder_sparse_step": 1},
    "gpt_oss": _DECODER | _EXPERTS,
    "llama4_text": _DECODER | _EXPERTS | {"num_experts_per_tok": 1, "intermediate_size_mlp": 24, "moe_layers": [0]},
    "bert": _COMMON
    | {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    },
}
ENCODERS = ("bert",)


def make(name, dtype=torch.float64, seed=0, **settings):
    """A model with weights that matter: all random, none at 0 or 1."""
    torch.manual_seed(seed)
    config = CONFIG_MAPPING[name](**CONFIGS[name] | settings)
    model = (AutoModel if name in ENCODERS else AutoModelForCausalLM).from_config(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            centre = 1.0 if parameter.ndim == 1 and bool((parameter == 1).all()) else 0.0
            spread = 0.1 if parameter.ndim == 1 else 0.35
            parameter.copy_(centre + spread * torch.randn(parameter.shape, dtype=torch.float64))
    return model


def tokens(count=3, sequences=6, length=12, seed=0):
    """Batches of token ids; a few of them are much more frequent than the others, so that inputs are not white."""
    generator = torch.Generator().manual_seed(seed)
    shares = torch.arange(1.0, VOCABULARY - 2).reciprocal()
    drawn = torch.multinomial(shares.expand(count * sequences, -1), length, replacement=True, generator=generator) + 3
    return [{"input_ids": part} for part in drawn.split(sequences)]


def outputs(model, batches):
    """What a model gives, all batches together."""
    with torch.no_grad(), one_by_one(model):
        return torch.cat([model(**batch, use_cache=False)[0].flatten(0, 1) for batch in batches])


def stack(width=8, blocks=3, seed=0, dtype=torch.float64):
    """A plain list of blocks."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(blocks))
    ).to(dtype)

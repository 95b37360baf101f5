"""Language models of random weights with a tokenizer of words, in directories as Hugging Face has them."""

from __future__ import annotations

import random
from pathlib import Path

WORDS = tuple(f"w{k}" for k in range(60))


def tokenizer(words=WORDS, end: bool = True):
    """One token for each word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(("<unk>", "<end>", *words))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    extra = {"eos_token": "<end>"} if end else {}
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", **extra)


def save_model(folder: Path, layers: int = 3, seed: int = 0, words=WORDS, **config) -> Path:
    """A Llama in shards, with its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    settings = {
        "vocab_size": 2 + len(words),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
    }
    model = LlamaForCausalLM(LlamaConfig(**settings | config))
    model.save_pretrained(folder, max_shard_size="12KB")
    tokenizer(words).save_pretrained(folder)
    return folder


def text(tokens: int, seed: int = 0) -> str:
    """So many words."""
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(tokens))

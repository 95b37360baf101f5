"""Linear layers with a 2:4 mask."""

from __future__ import annotations

import torch
from torch import nn

from tests.nn.two_four import random_mask
from tmask.blocks.pattern import Pattern
from tmask.nn.mask.parametrization import Masked
from tmask.nn.mask.registration import put_on
from tmask.nn.mask.terms import Terms


def masked_linear(
    out=64, into=128, *, device="cpu", dtype=torch.bfloat16, bias=True, gradient="straight-through", seed=0
):
    torch.manual_seed(seed)
    layer = nn.Linear(into, out, bias=bias, device=device, dtype=dtype)
    masked = Masked(layer.weight, Terms(Pattern(2, 4), Pattern(2, 4)), gradient)
    masked.mask.copy_(random_mask(out, into, seed))
    put_on(layer, "weight", masked)
    return layer


def mask_of(layer):
    return layer.parametrizations.weight[0].mask


def master_of(layer):
    return layer.parametrizations.weight.original

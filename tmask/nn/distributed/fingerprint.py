"""A number for a tensor's bits, by which processes compare what they hold without sending it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_CHUNK = 2**20  # words; the factors take as much memory as one chunk, and not as the tensor
_GOLDEN = -7046029254386353131  # 2^64 over the golden ratio, as int64: odd, and its multiples are spread evenly
_MIXERS = ((30, -4658895280553007687), (27, -7723592293110705685))  # the finaliser of SplitMix64


@torch.no_grad()
def fingerprint(tensor: Tensor) -> int:
    """64 bits that depend on every bit of the tensor and its place; computed where the tensor is.

    The tensor's bytes as 64-bit words, each times an odd number of its own, added modulo 2^64: one word that differs
    always shows, several escape with a probability of about 2^-64. Shape and dtype do not enter.

    Cost: O(size) and 8 MiB; one synchronisation.
    """
    octets = tensor.detach().contiguous().flatten().view(torch.uint8)
    words = functional.pad(octets, (0, -len(octets) % 8)).view(torch.int64)
    factors = _factors(min(len(words), _CHUNK), tensor.device)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for chunk in torch.split(words, _CHUNK):
        # int64 wraps around without a word, which is just the arithmetic modulo 2^64 that is meant.
        # The factor tells chunks apart, which share their words' factors.
        total = total * _GOLDEN + (chunk * factors[: len(chunk)]).sum()
    return int(total)


def _factors(count: int, device: torch.device) -> Tensor:
    """Odd numbers without a pattern, the same everywhere: (count,) int64."""
    state = torch.arange(1, count + 1, device=device) * _GOLDEN
    for shift, factor in _MIXERS:
        state = (state ^ (state >> shift)) * factor
    return state | 1

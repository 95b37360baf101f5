"""Perplexity of a causal language model: how many tokens it is in doubt between, on text that it is to go on with.

The exponential of the mean negative log-likelihood of tokens given those before them in a window. Windows stand side by
side, or overlap: then the tokens before the stride are context alone, so that each token is judged once, with more
before it. Numbers of the two kinds, or of other lengths, are not comparable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tmask.errors import InvalidProblemError
from tmask.nn.calibration.batches import evaluating
from tmask.showing.progress import Progress, reporting


@dataclass(frozen=True, slots=True)
class Perplexity:
    """A perplexity, and how it was measured.

    Args:
        value: the perplexity.
        windows: that were read.
        tokens: that were judged.
        length: of a window.
        stride: from one window to the next; `length` for windows side by side.
    """

    value: float
    windows: int
    tokens: int
    length: int
    stride: int

    @property
    def how(self) -> str:
        """In words."""
        if self.stride == self.length:
            return f"disjoint windows of {self.length} tokens"
        return f"sliding windows of {self.length} tokens, stride {self.stride}"


@dataclass(frozen=True, slots=True)
class Windows:
    """Where to look in a text.

    Args:
        starts: of the windows, in tokens.
        length: of each.
        stride: tokens that each has judged, from its end; all but the very first where it is the length.
    """

    starts: tuple[int, ...]
    length: int
    stride: int

    def scored(self, start: int) -> int:
        """How many tokens at the end of a window are judged: no token has been by an earlier one."""
        return self.length - 1 if start == 0 else min(self.stride, self.length - 1)


def choose_windows(
    tokens: int, length: int, stride: int | None = None, count: int | None = None, seed: int = 0
) -> Windows:
    """Windows that lie in a text whole.

    Args:
        tokens: of the text.
        stride: from one to the next; None for windows side by side.
        count: so many of them, drawn by the seed; None for all.
    Raises:
        InvalidProblemError: too little text; tells how many tokens there are and how many are needed.
    """
    step = length if stride is None else stride
    if length < 2 or not 1 <= step <= length:
        raise InvalidProblemError(
            f"windows of {length} tokens, stride {step}: at least 2 tokens, and a stride of 1 to these"
        )
    need = length + step * ((count or 1) - 1)
    if tokens < need:
        raise InvalidProblemError(
            f"{tokens:,} tokens, but {count or 1} windows of {length} need {need:,}; give more text, or fewer or "
            "shorter windows"
        )
    there = (tokens - length) // step + 1
    if count is None:
        return Windows(tuple(range(0, there * step, step)), length, step)
    order = torch.randperm(there, generator=torch.Generator().manual_seed(seed))[:count]
    return Windows(tuple(step * index for index in sorted(order.tolist())), length, step)


@torch.no_grad()
def perplexity(model: nn.Module, tokens: Tensor, windows: Windows, progress: Progress = None) -> Perplexity:
    """The perplexity of a model that returns `logits` for `input_ids`.

    Args:
        tokens: (T,) of the text.
        progress: True for a bar; or called with windows done, their number, and "".
    Raises:
        InvalidProblemError: logits that are NaN or infinite; names the window.
    Cost: a forward pass for each window, one at a time; their logits in float32.
    """
    device = next(model.parameters()).device
    total, judged = 0.0, 0
    with evaluating(model), reporting(progress, "windows") as tell:
        for number, start in enumerate(windows.starts):
            ids = tokens[start : start + windows.length].to(device)
            scored = windows.scored(start)
            logits = model(input_ids=ids[None], use_cache=False).logits[0, -scored - 1 : -1].float()
            # Not the loss alone: a NaN may stand where it does not come to it.
            if not bool(torch.isfinite(logits).all()):
                raise InvalidProblemError(
                    f"the model gives NaN or infinite logits in window {number} (tokens {start} to "
                    f"{start + windows.length})"
                )
            total += float(nn.functional.cross_entropy(logits, ids[-scored:], reduction="sum"))
            judged += scored
            tell(number + 1, len(windows.starts), "")
    mean = total / judged
    value = math.exp(mean) if mean < math.log(torch.finfo(torch.float64).max) else math.inf
    return Perplexity(value, len(windows.starts), judged, windows.length, windows.stride)

"""The parametrization that puts a mask on a weight.

The layer keeps its dense master weight W as `parametrizations.<name>.original`; everything that reads the layer's
weight, kernels of torch that bypass `forward` included, gets the effective weight where(mask, W, 0). What gradient W
receives for it, `gradient` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn.mask.cutting import Cutting
from tmask.nn.mask.effective import Lost, effective
from tmask.nn.mask.gradient import Gradient, StraightThrough, StraightThroughBothWays
from tmask.nn.mask.masking import apply_mask
from tmask.nn.mask.saved import check_saved
from tmask.nn.mask.shards import is_sharded
from tmask.nn.mask.smoothing import ShrunkStraightThrough, fitting_scale, shrink, thresholds
from tmask.nn.mask.stamps import Stamp
from tmask.nn.mask.terms import Terms

_NO_SHARDS = "smoothing needs whole weights, and fully_shard has cut these; give smoothing=0"


class Masked(nn.Module):
    """W -> where(mask, W, 0). One instance serves every layer that shares the weight.

    Buffers, saved with the model:
        mask: bool, the weight's shape, True = kept; a DTensor once the weight is one. It is replaced in place, so that
            compiled graphs and distributed wrappers go on with the same tensor. Under the masked rule torch refuses a
            backward pass across such a change; the straight-through one needs the mask in forward alone.
        terms: int64 (6,), the numbers of `Terms`, by which a mask from elsewhere is judged.
        threshold, scale: of a smooth mask alone, see `tmask.nn.mask.smoothing`; the effective weight is then
            scale * sign(W) * max(|W| - threshold, 0) where the mask keeps.

    Args:
        weight: gives the shape and the device; the mask begins as all True.
        terms: with the pattern that training ends with, kept as `target`.
        gradient: rule for the gradient of W.
        keep_zeros: entries of W that are 0 receive none under the straight-through rule, and so stay 0.
        smoothing: share of its price by which a kept entry shrinks; 0 for a hard mask.
    """

    mask: Tensor
    terms: Tensor
    threshold: Tensor
    scale: Tensor

    def __init__(
        self, weight: Tensor, terms: Terms, gradient: Gradient, keep_zeros: bool = False, smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.gradient, self.keep_zeros, self.smoothing = gradient, keep_zeros, smoothing
        self.target = terms.target
        self._gather_and_apply: Callable[[Tensor, Tensor, bool], Tensor] | None = None
        self._lost = Lost()
        # Of contents of the mask that were found to keep exactly n everywhere; None if nobody has looked.
        self.complete_at: Stamp | None = None
        self.reminder: Any = None  # of steps that nobody tells of, see `tmask.nn.training.reminder`
        # Buffers, both, so that they stay together in every state dict, file and copy of the model.
        self.register_buffer("mask", torch.ones(weight.shape, dtype=torch.bool, device=weight.device))
        self.register_buffer("terms", torch.tensor(terms.numbers(), device=weight.device))
        if smoothing:
            if is_sharded(weight):
                raise InvalidProblemError(_NO_SHARDS)
            self.register_buffer("threshold", torch.zeros_like(weight, requires_grad=False))
            self.register_buffer("scale", torch.ones((), dtype=weight.dtype, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        if self.keep_zeros and self.gradient != "masked":
            weight = apply_mask(weight, weight != 0)  # the same values, without a way back to zeros
        self._lost.check()
        if is_sharded(weight):
            self.follow(weight)
        elif self._gather_and_apply is not None:
            # Inside the forward pass FSDP has put the weight together; the mask is in shards still.
            return self._gather_and_apply(weight, self.mask, self.gradient == "masked")
        return effective(self._masked(weight), weight, self.values, self._lost)

    def values(self, weight: Tensor) -> Tensor:
        """The numbers that multiply, for a dense weight W."""
        if self.smoothing:
            return shrink(weight, self.mask, self.threshold, self.scale)
        return apply_mask(weight, self.mask)

    @torch.no_grad()
    def smooth(self, weight: Tensor, pattern: Pattern | None, cutting: Cutting, *, anew: bool) -> None:
        """Take thresholds from the weight, once the mask was replaced; and the scale too, where `anew`."""
        if not self.smoothing:
            return
        self.threshold.copy_(self.smoothing * thresholds(weight, pattern, cutting))
        if anew:
            self.scale.fill_(1.0)
            self.scale.copy_(fitting_scale(weight, self.values(weight)))

    def _masked(self, weight: Tensor) -> Tensor:
        if self.gradient == "masked":
            return self.values(weight)
        if self.smoothing:
            shrunk: Tensor = ShrunkStraightThrough.apply(  # type: ignore[no-untyped-call]
                weight, self.mask, self.threshold, self.scale
            )
            return shrunk
        # Forward-mode differentiation is for eager code alone: torch.compile refuses a function that has it.
        function = StraightThrough if torch.compiler.is_compiling() else StraightThroughBothWays
        masked: Tensor = function.apply(weight, self.mask)  # type: ignore[no-untyped-call]
        return masked

    def follow(self, weight: Tensor) -> bool:
        """Cut the mask like a weight that `fully_shard` has cut since; returns whether it did."""
        if not is_sharded(weight) or is_sharded(self.mask):
            return False
        if self.smoothing:
            raise InvalidProblemError(_NO_SHARDS)
        from tmask.nn.mask.sharding import gather_and_apply, shard_like  # late: it loads torch's tensors over ranks

        self.mask = shard_like(self.mask, weight)
        self._gather_and_apply = gather_and_apply
        return True

    def check(self, name: str) -> None:
        """Return if the mask is one that was found under its terms; shards of one cannot be judged, and are not.

        Raises:
            InvalidMaskError, InvalidProblemError: as `Terms`; `name` is the layer's.
        """
        if not is_sharded(self.mask):
            Terms.of(self.terms.tolist(), name).check(self.mask, name)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What `layer.weight = value` stores: the value itself becomes the dense master weight."""
        return weight

    def extra_repr(self) -> str:
        smooth = f", smoothing={self.smoothing:g}" if self.smoothing else ""
        return f"{self.target}, gradient={self.gradient}{smooth}"

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        # Before anything is copied, so that a layer whose mask is refused keeps the one that it has.
        check_saved(state_dict, prefix, self.target, self.mask.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

"""Effective weights that `fully_shard` has cut: what is written into them goes to the shards of the dense master.

Apart, since it loads torch's tensors over ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from tmask.nn.mask.effective import CLASSES, Writing, seen


class EffectiveShards(Writing, DTensor):
    """where(mask, W, 0) in shards, a DTensor to torch."""

    __torch_function__ = DTensor.__torch_function__

    def to_local(self, **named: Any) -> Tensor:
        """This rank's part, whose changes go to that of the master."""
        local: Callable[..., Tensor] = DTensor.to_local
        return seen(self, local(self, **named), lambda part: local(part, **named))

    def _become_parameter(self) -> None:
        self.__class__ = DTensor  # type: ignore[assignment]
        self._is_param = True


CLASSES[DTensor] = EffectiveShards

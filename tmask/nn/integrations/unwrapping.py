"""What training loops have wrapped or cut, taken out again."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tmask.nn.mask.shards import put_together


def whole_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with tensors that are cut over ranks put together; all ranks must call it where there are any."""
    return {name: put_together(tensor) for name, tensor in state.items()}

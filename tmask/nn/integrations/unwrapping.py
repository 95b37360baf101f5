"""What training loops have wrapped, taken out again."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.optim import Optimizer

from tmask.nn.parametrization import is_sharded


def plain_optimizer(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside the wrappers of accelerate and Lightning, whose `step` does not always step."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


def whole_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with tensors that are cut over ranks put together; all ranks must call it where there are any."""
    if not any(map(is_sharded, state.values())):
        return dict(state)
    from tmask.nn.sharding import whole

    return {name: whole(tensor) for name, tensor in state.items()}

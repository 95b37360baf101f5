"""Tensors that `fully_shard` has cut over ranks, and whole ones, alike to callers.

Apart from `tmask.nn.mask.sharding`, so that training in one process loads none of torch's tensors over ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, as `fully_shard` makes of parameters; told without importing that class."""
    return hasattr(tensor, "device_mesh")


def local_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor; all of it where it is whole."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def put_together(tensor: Tensor) -> Tensor:
    """The whole of a tensor; all ranks must call it where `fully_shard` has cut it."""
    if not is_sharded(tensor):
        return tensor
    from tmask.nn.mask.sharding import whole  # late: see above

    return whole(tensor)


def counted(counts: Sequence[Tensor]) -> list[int]:
    """Numbers () that stand on devices, each of which is waited for once; all ranks must call it for sharded ones."""
    whole: list[Tensor] = [x.full_tensor() if is_sharded(x) else x for x in counts]  # type: ignore[attr-defined]
    fetched = {
        device: iter(torch.stack([x for x in whole if x.device == device]).tolist())
        for device in {x.device for x in whole}
    }
    return [int(next(fetched[x.device])) for x in whole]

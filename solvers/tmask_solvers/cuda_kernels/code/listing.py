"""The list of tiles that a kernel leaves over for the next one, made on the device: its length is counted there too."""

from __future__ import annotations

from typing import Any

import numpy as np

from tmask_solvers.cuda_kernels.code.lines import inlined

_EVERYONE = 0xFFFFFFFF


def make_list(cuda: Any) -> Any:
    """take_place(lane, tile, wanted, left, used): write `tile` to the list `left`, of `used` entries, if `wanted`."""

    def take_place(lane: Any, tile: Any, wanted: Any, left: Any, used: Any) -> None:
        votes = np.int64(cuda.ballot_sync(_EVERYONE, wanted)) & _EVERYONE
        if votes != 0:
            # Places for the whole warp at once: where most tiles are left, one addition each would queue up.
            place = 0
            if lane == 0:
                place = cuda.atomic.add(used, 0, np.int32(cuda.popc(votes)))
            place = cuda.shfl_sync(_EVERYONE, place, 0)
            if wanted:
                left[place + cuda.popc(votes & ((1 << lane) - 1))] = tile

    return inlined(cuda, take_place)

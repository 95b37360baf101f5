"""The core's checks of masks on a CUDA device, by one kernel a dtype, pattern and kind of proof.

`tmask.judging.examining` calls this in place of torch's operations, where the kernels' libraries are loaded anyway.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tmask_solvers.cuda_kernels.code.judge import FIGURES
from tmask_solvers.cuda_kernels.code.kernels import SIDE, Kernel
from tmask_solvers.cuda_kernels.code.places import entries_between, numbers_of, origin_of
from tmask_solvers.cuda_kernels.device import Started, on_device, to_device
from tmask_solvers.cuda_kernels.repeating import Repeat, Repeats
from tmask_solvers.cuda_kernels.usable import works_here

# Records of a matrix, whatever its size: as many warps as fill a large GPU, and few enough to be summed in one go. With
# a number that depended on the GPU, so would the last digits of sums.
SHARES = 4096
_LARGEST_SIDE = 32

_calls = Repeats()

# As in `tmask.judging.examining`: values and masks (K, G, down, across, m, m), n, and column prices or None.
_Judged = tuple[Tensor, Tensor, int, Tensor | None]


def takes(device_type: str, side: int) -> bool:
    """Whether masks with tiles of this side can be examined on such a device."""
    return device_type == "cuda" and side <= _LARGEST_SIDE and works_here()


def kind_of(side: int, priced: bool) -> str:
    """The kernel that examines masks with tiles of this side."""
    return "tally" if side == SIDE and not priced else "judge"


def examine_all(parts: Sequence[_Judged]) -> Tensor:
    """(parts, FIGURES) float64, see `tmask.judging.tensor_judging.examine`; all are on one device."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for k, (values, _, n, prices) in enumerate(parts):
        key = n, values.shape[-1], values.dtype, prices is None
        alike.setdefault(key, []).append(k)
    found = [_examine([parts[k] for k in chosen]) for chosen in alike.values()]
    if len(found) == 1:
        return found[0]
    order = torch.tensor([k for chosen in alike.values() for k in chosen], device="cpu").argsort()
    return torch.cat(found)[to_device(order, found[0].device)]


def _examine(parts: Sequence[_Judged]) -> Tensor:
    """The same for parts of one kind."""
    records = _examine_alike(*parts[0]) if len(parts) == 1 else _examine_many(parts)[0]
    return records.view(len(parts), SHARES, FIGURES).sum(1)


def _examine_alike(values: Tensor, masks: Tensor, n: int, prices: Tensor | None) -> Tensor:
    """The records of one part, by the launch of one before that lay alike, if there was one."""
    given = [values, masks]
    if prices is not None:
        given.append(prices.double().contiguous())
    key = values.shape, values.stride(), values.dtype, values.device, masks.stride(), n, len(given), SHARES
    if (made := _calls.again(key, given)) is not None:
        return made[0]
    records, started = _examine_many([(values, masks, n, None if prices is None else given[2])])
    _calls.note(key, Repeat.of(started, given, (), (records,)))
    return records


def _examine_many(parts: Sequence[_Judged]) -> tuple[Tensor, list[Started]]:
    """The records of all parts, and what was started for that."""
    values, masks, n, _ = parts[0]
    origins = origin_of(values), origin_of(masks)
    prices = [v.double().contiguous() for *_, v in parts if v is not None]
    places = [entries_between(prices[0], v) for v in prices] or [0] * len(parts)
    rows = [numbers_of(x, kept, origins, 0, place) for (x, kept, *_), place in zip(parts, places, strict=True)]
    many = len(parts) > 1
    where = to_device(torch.tensor(rows, device="cpu"), values.device) if many else tuple(rows[0])
    records = torch.empty(len(parts) * SHARES * FIGURES, dtype=torch.float64, device=values.device)
    with on_device(values.device) as device:
        kernel = Kernel(kind_of(values.shape[-1], bool(prices)), n, values.shape[-1], values.dtype, many)
        # A kernel takes an array in any case; where there are no prices, any one will do.
        known = origin_of(prices[0]) if prices else records[:1]
        device.launch_exactly(kernel, len(parts) * SHARES, *origins, where, known, int(bool(prices)), SHARES, records)
    return records, device.started

"""A call like one before: its launches once more, on other memory.

To work out the numbers that kernels take costs Python several times what the launches cost. But for addresses they
depend on shapes, strides and dtypes alone, which are few in a process; so a call notes what it has launched, and the
next one that is given tensors that lie alike launches the same with its own addresses.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tmask_solvers.cuda_kernels.device import Device, Started, on_device
from tmask_solvers.cuda_kernels.direct import Launch, address_slots

_MOST = 4096  # calls that are remembered: of more, the shapes of one process are without end


@dataclass(frozen=True, slots=True)
class Repeat:
    """The launches of a call.

    Args:
        launches: each with the places of addresses among its numbers: (place, which tensor, bytes behind its first).
        made: of the tensors that the call makes, shape, dtype, and whether they begin as zeros.
    """

    launches: tuple[tuple[Launch, tuple[tuple[int, int, int], ...]], ...]
    made: tuple[tuple[tuple[int, ...], torch.dtype, bool], ...]

    @classmethod
    def of(
        cls, started: Sequence[Started], given: Sequence[Tensor], zeros: Sequence[Tensor], empty: Sequence[Tensor]
    ) -> Repeat | None:
        """Of what a call has started on the tensors that it was given and has made; None if it used others too."""
        tensors = [*given, *zeros, *empty]
        launches = []
        for launch, arguments in started:
            places = []
            for slot, argument in address_slots(arguments):
                found = _within(argument, tensors)
                if found is None:
                    return None
                places.append((slot, *found))
            launches.append((launch, tuple(places)))
        made = [(tuple(one.shape), one.dtype, k < len(zeros)) for k, one in enumerate((*zeros, *empty))]
        return cls(tuple(launches), tuple(made))

    def make(self, device: torch.device) -> list[Tensor]:
        """The tensors that a call makes, anew."""
        return [
            (torch.zeros if zeros else torch.empty)(shape, dtype=dtype, device=device)
            for shape, dtype, zeros in self.made
        ]

    def start(self, device: Device, tensors: Sequence[Tensor]) -> bool:
        """Launch on those given, then those made; False where a launch fails."""
        addresses = [one.data_ptr() for one in tensors]
        return device.start_again(
            launch.at([(slot, addresses[which] + behind) for slot, which, behind in places])
            for launch, places in self.launches
        )


class Repeats:
    """Calls by what their launches depend on."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Repeat] = {}

    def again(self, key: Hashable, given: Sequence[Tensor]) -> list[Tensor] | None:
        """Launch what a call of this key has launched, on these tensors; those that it makes, or None if it cannot."""
        known = self._known.get(key)
        if known is None:
            return None
        made = known.make(given[0].device)
        with on_device(given[0].device) as device:
            if known.start(device, (*given, *made)):
                return made
        del self._known[key]  # the whole way says what is wrong
        return None

    def note(self, key: Hashable, repeat: Repeat | None) -> None:
        """Keep what a call has launched, for others of its key."""
        if repeat is not None and repeat.launches:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[key] = repeat


def _within(tensor: Tensor, tensors: Sequence[Tensor]) -> tuple[int, int] | None:
    """In which of some tensors this one begins, and how many bytes behind its first entry."""
    memory = tensor.untyped_storage().data_ptr()
    behind = [
        (tensor.data_ptr() - one.data_ptr(), which)
        for which, one in enumerate(tensors)
        if one.untyped_storage().data_ptr() == memory and one.data_ptr() <= tensor.data_ptr()
    ]
    if not behind:
        return None
    # The nearest: a weight and its mask may be views of one memory.
    distance, which = min(behind)
    return which, distance

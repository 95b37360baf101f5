"""Kernels of our own that are taken where they were seen to write what torch does, and given up where they fail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from tmask.nn.mask.eager import is_captured

log = logging.getLogger("tmask")


class Believed:
    """Where kernels of one purpose can be taken.

    Args:
        otherwise: what happens where they cannot, in words.
        devices: types of those that Triton compiles for.
        large: entries from which on `pays` says yes.
    """

    def __init__(self, otherwise: str, devices: tuple[str, ...] = ("cuda",), large: int = 1 << 22) -> None:
        self._otherwise = otherwise
        self._devices = devices
        self._large = large
        self._right: dict[tuple[torch.device, Hashable], bool] = {}

    def may_take(self, device: torch.device) -> bool:
        """Whether such kernels can be compiled for a device at all."""
        return device.type in self._devices

    def pays(self, tensor: Tensor) -> bool:
        """Whether a launch is worth it: it takes longer than torch's own, but for in a graph, where all cost alike."""
        return tensor.numel() >= self._large or is_captured(tensor.device)

    def takes(self, device: torch.device, kind: Hashable, right: Callable[[], bool], *, told: bool = True) -> bool:
        """Whether the kernel of this kind can be taken on a device: tried once in a process.

        Args:
            right: makes a trial, and compares; whatever it raises speaks against the kernel.
            told: whether it is worth a warning that a trial has given other values.
        """
        if not self.may_take(device):
            return False
        key = device, kind
        if key not in self._right:
            # To compare is to wait, which a capture does not allow.
            if is_captured(device):
                return False
            self._right[key] = self._try(device, right, told)
        return self._right[key]

    def knows(self, device: torch.device, kind: Hashable) -> bool:
        """Whether it was tried there, and can be taken."""
        return self._right.get((device, kind), False)

    def run(self, device: torch.device, launch: Callable[[], object]) -> bool:
        """Launch a kernel that is taken; False where it fails, and then no such kernel is taken there any more."""
        try:
            launch()
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler or a driver may raise; the step must go on
            for key in [key for key in self._right if key[0] == device]:
                self._right[key] = False
            self._tell(device, f"it failed: {error}")
            return False
        return True

    def _try(self, device: torch.device, right: Callable[[], bool], told: bool) -> bool:
        try:
            equal = right()
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # no Triton, no compiler for it, or whatever these raise
            self._tell(device, f"it does not run: {error or type(error).__name__}")
            return False
        if not equal and told:
            self._tell(device, "it wrote other values than torch does")
        return equal

    def _tell(self, device: torch.device, problem: str) -> None:
        first = " ".join(problem.split())[:300]
        log.warning("%s on %s, not by the kernel: %s", self._otherwise, device, first)


def made_current(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device, whatever its tensors are on."""
    context: AbstractContextManager[object] = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    return context

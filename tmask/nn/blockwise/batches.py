"""Calibration batches: checked, held, freed of padding, shared out among processes, told apart by a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tmask.errors import InvalidProblemError
from tmask.nn.calibration.batches import Calibration, Forward
from tmask.nn.calibration.padding import without_padding
from tmask.nn.distributed.ranks import Ranks


def hold(calibration: Iterable[Any], forward: Forward | None = None) -> list[Any]:
    """The batches in a list, without padding: token ids are small beside hidden states.

    Raises:
        InvalidProblemError: one tensor, an iterator, or nothing at all; padding inside a sequence.
    """
    Calibration(calibration, forward)  # refuses what cannot be meant
    batches = [part for number, batch in enumerate(calibration) for part in without_padding(batch, number)]
    if not batches:
        raise InvalidProblemError("calibration is empty; give at least one batch of inputs")
    return batches


def share(batches: Sequence[Any], ranks: Ranks | None) -> list[Any]:
    """The batches of this process: every world-th.

    Raises:
        InvalidProblemError: fewer batches than processes.
    """
    if ranks is None:
        return [*batches]
    if len(batches) < ranks.size:
        raise InvalidProblemError(f"{len(batches)} calibration batches for {ranks.size} processes; give smaller ones")
    return [*batches[ranks.index :: ranks.size]]


def placed(value: Any, device: torch.device) -> Any:
    """A batch with its tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: placed(item, device) for key, item in value.items()}
    return type(value)(placed(item, device) for item in value) if type(value) in (tuple, list) else value


def digest(batches: Sequence[Any]) -> str:
    """Of what batches hold, so that a run is continued on the same data alone."""
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            found.update(f"{value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, Mapping):
            for key in sorted(value):
                found.update(str(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        else:
            found.update(repr(value).encode())

    add([*batches])
    return found.hexdigest()

"""Calibration data: batches that can be read again and again, and are fed to a model in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tmask.errors import InvalidProblemError
from tmask.nn.calibration.padding import without_padding

Forward = Callable[[nn.Module, Any], object]


class Stopped(Exception):
    """Raised by a hook that has all it wants of a forward pass; `Calibration.run` goes on with the next batch."""


class Calibration:
    """Batches of inputs, read as often as passes are needed.

    Args:
        batches: an iterable that can be iterated again (a list, a DataLoader) of tensors, tuples or lists (the
            arguments of the model), or mappings (its keyword arguments). What the `attention_mask` of a mapping calls
            padding counts nowhere.
        forward: how a batch goes through a model; called with both.
    Raises:
        InvalidProblemError: an iterator, which can be read only once.
    """

    def __init__(self, batches: Iterable[Any], forward: Forward | None = None) -> None:
        # A tensor can be iterated: by rows, each of which would be taken for a batch.
        if isinstance(batches, Tensor):
            raise InvalidProblemError(
                "calibration is one tensor; give a list of batches, for example tensor.split(100), or [tensor]"
            )
        if not isinstance(batches, Iterable):
            raise InvalidProblemError(f"calibration is a {type(batches).__name__}; give an iterable of input batches")
        if isinstance(batches, Iterator):
            raise InvalidProblemError(
                "calibration can be read only once (it is a generator or another iterator), but several passes are "
                "needed; give list(calibration), or an object that starts anew each time, such as a DataLoader"
            )
        self._batches = batches
        self._forward = forward or call
        self._count: int | None = None

    def run(self, *models: nn.Module) -> Iterator[int]:
        """Feed every batch to each model in turn, without gradients; yields how many are done after each.

        Raises:
            InvalidProblemError: no batches, fewer or more of them than in the pass before, padding inside a
                sequence, a batch that a model refuses.
        """
        # All models of a pass stand on one device: the second is a copy of the first.
        device = _device(models[0])
        done = 0
        for number, batch in enumerate(self._batches):
            # One that is padded in several ways is run as several.
            for part in without_padding(_to(batch, device), number):
                for model in models:
                    self._run_one(model, part, number)
                done += 1
                yield done
        # A pass that its reader breaks off (the first batch is enough to trace) does not get here.
        if not done and self._count is None:
            raise InvalidProblemError("calibration is empty; give at least one batch of inputs")
        if self._count not in (None, done):
            raise InvalidProblemError(
                f"calibration gave {self._count} batches in its first pass and {done} in a later one; give batches "
                "that can be read again, such as a list"
            )
        self._count = done

    def _run_one(self, model: nn.Module, batch: Any, number: int) -> None:
        try:
            # Not inference mode, whose tensors have no versions: `tracing` tells operations in place by them.
            with torch.no_grad():
                self._forward(model, batch)
        except Stopped:
            pass
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            # One of our own is a ValueError too, and names the layer already.
            if isinstance(error, InvalidProblemError):
                raise
            raise InvalidProblemError(
                f"calibration batch {number} ({_describe(batch)}) does not fit the model: "
                f"{str(error).rstrip('. ')}. Batches hold the model's inputs alone (no labels); for any other "
                "form give forward=, which is called with the model and a batch"
            ) from error


def call(model: nn.Module, batch: Any) -> object:
    """The model's output for a batch: a tensor, its arguments in a tuple or list, or in a mapping by name."""
    if isinstance(batch, Tensor):
        return model(batch)
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, tuple | list):
        return model(*batch)
    raise TypeError(f"a batch is a tensor, a tuple, a list or a mapping, not a {type(batch).__name__}")


def first_input(inputs: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    """What a layer reads, by position or as input=, of what a hook with keyword arguments is given."""
    return inputs[0] if inputs else named["input"]


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each module's own mode again afterwards."""
    # Each module's own: parts of a model in training can be frozen in evaluation mode.
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _device(model: nn.Module) -> torch.device:
    tensors = (*model.parameters(), *model.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


def _to(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _to(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        # A named tuple takes its fields apart, not one iterable, and stays where it is.
        return type(batch)(_to(value, device) for value in batch) if type(batch) in (tuple, list) else batch
    return batch


def _describe(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} tensor of shape {tuple(batch.shape)}"
    if isinstance(batch, tuple | list):
        return f"{type(batch).__name__} of {len(batch)}"
    return type(batch).__name__

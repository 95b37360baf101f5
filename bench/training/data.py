"""What the networks learn from: small images, and text. From a file, or from what is installed.

Both kinds give batches by a seed, the same on every machine, and the same held-out examples to every run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tmask.errors import FileFormatError

Batch = tuple[Tensor, Tensor]  # what goes in, and the class of each example or the character behind each


class Data(ABC):
    """A task's examples.

    Attributes:
        name: of the source, as it stands in the rows.
        classes: that the logits tell apart.
    """

    name: str
    classes: int

    @abstractmethod
    def batches(self, seed: int, size: int, steps: int) -> Iterator[Batch]:
        """Random batches to learn from."""

    @abstractmethod
    def held_out(self) -> Iterator[Batch]:
        """Everything that is only tested on."""

    @abstractmethod
    def targets(self) -> Tensor:
        """What is to be predicted in everything that is learned from."""

    def trivial_loss(self) -> float:
        """Of the best guess that does not look: the entropy of the targets, in nats."""
        share = torch.bincount(self.targets()).double() / len(self.targets())
        return float(-torch.xlogy(share, share).sum())


@dataclass(eq=False)
class Images(Data):
    """Images (N, C, H, W) float32, normalised, and labels (N,) int64.

    Args:
        mirror: whether left and right may be swapped, in half of the examples that are learned from.
    """

    name: str
    classes: int
    train: Batch
    test: Batch
    mirror: bool

    def batches(self, seed: int, size: int, steps: int) -> Iterator[Batch]:
        """Epoch after epoch in random order; what is left of an epoch and fills no batch is dropped."""
        rng = torch.Generator().manual_seed(seed)
        images, labels = self.train
        if size > len(images):
            raise FileFormatError(f"{self.name}: {len(images)} images to learn from, fewer than a batch of {size}")
        order: list[Tensor] = []
        for _ in range(steps):
            if not order:
                order = list(torch.split(torch.randperm(len(images), generator=rng), size))[: len(images) // size]
            chosen = order.pop()
            batch = images[chosen]
            if self.mirror:
                swapped = torch.rand(size, generator=rng) < 0.5
                batch = torch.where(swapped[:, None, None, None], batch.flip(3), batch)
            yield batch, labels[chosen]

    def held_out(self) -> Iterator[Batch]:
        yield from zip(*(torch.split(part, 500) for part in self.test), strict=True)

    def targets(self) -> Tensor:
        return self.train[1]


@dataclass(eq=False)
class Text(Data):
    """Characters as numbers (N,) int64: the first nine tenths to learn from, the rest to test on.

    Args:
        context: characters that a prediction sees at most.
    """

    name: str
    classes: int
    train: Tensor
    test: Tensor
    context: int

    def batches(self, seed: int, size: int, steps: int) -> Iterator[Batch]:
        """Windows at random places."""
        rng = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            starts = torch.randint(len(self.train) - self.context, (size,), generator=rng)
            yield self._windows(self.train, starts)

    def held_out(self) -> Iterator[Batch]:
        """At most 512 windows, evenly spread, none over another."""
        last = len(self.test) - self.context - 1
        # The same windows for every run, so that test losses can be compared.
        starts = torch.linspace(0, last, max(1, min(512, last // self.context))).long()
        for part in torch.split(starts, 64):
            yield self._windows(self.test, part)

    def targets(self) -> Tensor:
        return self.train

    def _windows(self, text: Tensor, starts: Tensor) -> Batch:
        places = starts[:, None] + torch.arange(self.context + 1)
        windows = text[places]  # (B, T + 1)
        return windows[:, :-1], windows[:, 1:]


def load_images(file: Path | None, side: int) -> Images:
    """Images from an .npz file with train_x, train_y, test_x, test_y, or scikit-learn's digits.

    Args:
        file: x as (N, H, W, C) uint8, y as (N,).
        side: larger images are averaged down to it.
    Raises:
        FileFormatError: no such file, or other arrays in it.
    """
    if file is None:
        return _digits()
    try:
        with np.load(file) as arrays:
            train_x, train_y, test_x, test_y = (arrays[f"{part}_{axis}"] for part in ("train", "test") for axis in "xy")
    except (OSError, KeyError, ValueError) as error:
        raise FileFormatError(
            f"{file}: not an .npz file with train_x, train_y, test_x and test_y ({error}); leave the option out to "
            "take the built-in digits"
        ) from error
    if train_x.ndim != 4 or train_x.dtype != np.uint8:
        raise FileFormatError(f"{file}: train_x is {train_x.dtype} {train_x.shape}, not uint8 (N, H, W, C)")
    scale = train_x.reshape(-1, train_x.shape[3]) / 255.0
    mean, std = (torch.tensor(value, dtype=torch.float32) for value in (scale.mean(0), scale.std(0)))

    def prepare(x: np.ndarray, y: np.ndarray) -> Batch:
        images = ((torch.tensor(x) / 255 - mean) / std).permute(0, 3, 1, 2)  # (N, C, H, W)
        factor = max(1, images.shape[2] // side)
        return functional.avg_pool2d(images, factor).contiguous(), torch.tensor(y).long()

    return Images(file.name, int(train_y.max()) + 1, prepare(train_x, train_y), prepare(test_x, test_y), mirror=True)


def _digits() -> Images:
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (torch.tensor(found.images, dtype=torch.float32)[:, None] - 4.9) / 6.0  # of mean 0 and deviation 1, about
    labels = torch.tensor(found.target).long()
    test = torch.arange(len(labels)) % 4 == 3
    return Images("digits", 10, (images[~test], labels[~test]), (images[test], labels[test]), mirror=False)


def load_text(file: Path | None, context: int) -> Text:
    """Text from a UTF-8 file, or the documentation that comes with Python (`pydoc_data.topics`).

    Raises:
        FileFormatError: no such file, no text, or too short for a test of one window.
    """
    if file is None:
        # Long enough, and in every installation of Python.
        from pydoc_data.topics import topics

        name, text = "pydoc_data.topics", "\n".join(topics[key] for key in sorted(topics))
    else:
        try:
            name, text = file.name, file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FileFormatError(
                f"{file}: not a UTF-8 text file ({error}); leave the option out to take Python's documentation"
            ) from error
    if len(text) < 20 * (context + 1):
        raise FileFormatError(f"{name}: {len(text)} characters, too few for windows of {context}")
    numbers = {character: number for number, character in enumerate(sorted(set(text)))}
    characters = torch.tensor([numbers[character] for character in text])
    cut = len(text) * 9 // 10
    return Text(name, len(numbers), characters[:cut], characters[cut:], context)

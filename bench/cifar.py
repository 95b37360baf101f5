"""What the pruning benchmarks share: the trained ResNet-20, the images, accuracy, and one epoch of fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.resnet20 import ResNet20, load_resnet20, normalise

BATCH = 100
# Of fine-tuning: small, since one epoch is to mend a trained model.
LEARNING_RATE = 0.01
WEIGHT_DECAY = 5e-4


@dataclass(frozen=True, slots=True)
class Cifar:
    """The dense model and its data.

    Args:
        dense: ResNet-20 with its trained weights and running statistics.
        images, labels: (10000, 3, 32, 32) normalised, for calibration and fine-tuning.
        test_images, test_labels: (5000, ...), for accuracy alone.
    """

    dense: ResNet20
    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def calibration(self, seed: int, count: int = 1000) -> list[Tensor]:
        """Batches of images drawn at random."""
        chosen = torch.from_numpy(np.random.default_rng(seed).permutation(len(self.images))[:count])
        return list(torch.split(self.images[chosen], BATCH))

    def top1(self, model: nn.Module) -> float:
        """Share of the test images that a model classifies rightly."""
        # Traced and frozen, with batch norms folded: the same numbers up to rounding in half the time.
        with torch.inference_mode():
            traced = torch.jit.trace(model.eval(), self.test_images[:BATCH])  # type: ignore[no-untyped-call]
            fast = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
            right = [
                int((fast(images).argmax(1) == labels).sum())
                for images, labels in zip(
                    torch.split(self.test_images, BATCH), torch.split(self.test_labels, BATCH), strict=True
                )
            ]
        return sum(right) / len(self.test_labels)

    def fine_tune(self, model: nn.Module, masks: Mapping[str, Tensor], seed: int) -> None:
        """One epoch of SGD on all images, shifted and mirrored at random, in place; what a mask removed stays 0."""
        torch.manual_seed(seed)
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=WEIGHT_DECAY)
        removed = [(weight_of(model, name), ~mask) for name, mask in masks.items()]
        steps = math.ceil(len(self.images) / BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for batch in torch.split(torch.randperm(len(self.images)), BATCH):
            loss = functional.cross_entropy(model(_augment(self.images[batch])), self.labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            # Momentum moves removed weights too.
            with torch.no_grad():
                for weight, zeros in removed:
                    weight[zeros] = 0
        model.eval()


def load(data: Path) -> Cifar:
    """From a folder with `resnet20_cifar10.safetensors` and `cifar10_small.npz`."""
    with np.load(data / "cifar10_small.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in ("train_x", "train_y", "test_x", "test_y")}
    return Cifar(
        dense=load_resnet20(data / "resnet20_cifar10.safetensors"),
        images=normalise(arrays["train_x"]),
        labels=arrays["train_y"].long(),
        test_images=normalise(arrays["test_x"]),
        test_labels=arrays["test_y"].long(),
    )


def prunable(model: nn.Module) -> list[str]:
    """The convolutions but the first: what AdaPrune prunes of ResNet-20."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)][1:]


def largest(model: nn.Module, density: float, *, per_layer: bool) -> dict[str, Tensor]:
    """Unstructured masks by magnitude: the same density in each layer, or one threshold for all."""
    weights = {name: weight_of(model, name).detach().abs() for name in prunable(model)}
    if per_layer:
        return {name: weight >= _threshold(weight.flatten(), density) for name, weight in weights.items()}
    threshold = _threshold(torch.cat([weight.flatten() for weight in weights.values()]), density)
    return {name: weight >= threshold for name, weight in weights.items()}


def weight_of(model: nn.Module, name: str) -> Tensor:
    """The weight of a layer, by its full name or that of its module."""
    weight = model.get_submodule(name.removesuffix(".weight")).weight
    assert isinstance(weight, Tensor)
    return weight


def _threshold(values: Tensor, density: float) -> Tensor:
    """The smallest of the largest values of this share."""
    # kthvalue counts from the smallest, and from 1.
    return values.kthvalue(len(values) - round(density * len(values)) + 1).values


def _augment(images: Tensor) -> Tensor:
    """A batch mirrored with probability one half, and shifted by up to four pixels both ways."""
    if torch.rand(()) < 0.5:
        images = images.flip(3)
    down, right = (int(shift) for shift in torch.randint(0, 9, (2,)))
    return functional.pad(images, (4, 4, 4, 4))[:, :, down : down + 32, right : right + 32]

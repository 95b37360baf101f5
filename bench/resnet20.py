"""The ResNet-20 for CIFAR-10 whose trained weights the pruning benchmarks use.

Three stages of three blocks, 16, 32 and 64 channels wide; where a stage narrows the image, the shortcut takes every
other pixel and adds channels of zeros ("option A"), so it has no weights.

Source: [He2016], section 4.2.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch norms, and a shortcut around both."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.added = (outputs - inputs) // 2  # channels of zeros on either side

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride > 1:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added, self.added))
        return functional.relu(y + x)


class ResNet20(nn.Module):
    """Images (B, 3, 32, 32) -> logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, 1)
        self.layer2 = self._stage(16, 32, 2)
        self.layer3 = self._stage(32, 64, 2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(Block(inputs, outputs, stride), Block(outputs, outputs, 1), Block(outputs, outputs, 1))

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        x = functional.relu(self.bn1(self.conv1(images)))  # (B, 16, 32, 32)
        x = self.layer3(self.layer2(self.layer1(x)))  # (B, 64, 8, 8)
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def load_resnet20(path: Path) -> ResNet20:
    """With the weights of a safetensors file, in evaluation mode."""
    model = ResNet20()
    state = load_file(path)
    missing, unexpected = model.load_state_dict(state, strict=False)
    # Checkpoints of old torch versions lack the counters of batch norms, which nothing here reads.
    if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
        raise ValueError(f"{path} does not fit ResNet-20: missing {missing}, unexpected {unexpected}")
    return model.eval()


def normalise(images: Tensor) -> Tensor:
    """(B, 32, 32, 3) uint8 -> (B, 3, 32, 32) float32 as the weights were trained on."""
    # ImageNet's, not CIFAR-10's: the checkpoint was trained so.
    mean = torch.tensor((0.485, 0.456, 0.406))
    std = torch.tensor((0.229, 0.224, 0.225))
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()

"""The two networks: a ResNet for small images, and a GPT.

Shapes: B images or sequences, C channels, H and W pixels, T positions, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# Left dense in every setting, as is usual in sparse training: the classifiers. The ResNet's first convolution has three
# input channels, fewer than any block, and is left out by that.
DENSE_LAYERS = ("head",)
FEED_FORWARD_LAYERS = ("*.up", "*.down")


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut, which a 1 x 1 convolution adapts where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class ResNet(nn.Module):
    """Images (B, C, H, W) -> logits (B, classes). Three stages of width, 2 x width and 4 x width channels."""

    def __init__(self, channels: int, classes: int, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        stages: list[nn.Module] = []
        inputs = width
        for stage in range(3):
            for block in range(blocks):
                outputs = width << stage
                stages.append(ResidualBlock(inputs, outputs, 2 if stage and not block else 1))
                inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(images)))  # (B, width, H, W)
        x = self.stages(x).mean((2, 3))  # (B, 4 * width)
        logits: Tensor = self.head(x)
        return logits


class GptLayer(nn.Module):
    """Causal self-attention and a GELU network, each behind a layer norm and around a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        split = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (B, heads, T, D / heads)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        result: Tensor = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return result


class Gpt(nn.Module):
    """Characters (B, T) int64 -> logits (B, T, V) for the character behind each.

    Args:
        autocast: products in bfloat16.
    """

    def __init__(
        self, vocabulary: int, context: int, width: int, layers: int, heads: int, autocast: bool = False
    ) -> None:
        super().__init__()
        self.autocast = autocast
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.layers = nn.Sequential(*(GptLayer(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for name, parameter in self.named_parameters():
            if name in ("tokens.weight", "positions.weight"):
                nn.init.normal_(parameter, std=0.2)
            elif parameter.ndim == 2:
                # What adds to the stream starts smaller, by the number of additions.
                last = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.05 / ((2 * layers) ** 0.5 if last else 1))

    def forward(self, characters: Tensor) -> Tensor:
        places = torch.arange(characters.shape[1], device=characters.device)
        with torch.autocast(characters.device.type, torch.bfloat16, enabled=self.autocast):
            x = self.tokens(characters) + self.positions(places)  # (B, T, D)
            logits: Tensor = self.head(self.norm(self.layers(x)))
        return logits

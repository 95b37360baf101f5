"""Train the built-in network: a small convolutional one on scikit-learn's handwritten digits, in seconds.

    python -m bench.train_digits [FILE]

Two convolutions (3 x 3) and two linear layers, without batch norm, so that every weight is a plain one. Seeded, one
thread: the same torch build on the same kind of machine gives the same weights. The test accuracy goes into the
metadata of the file.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional

SEED = 0
EPOCHS = 30
BATCH = 64
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2
TARGET = Path(__file__).parent.parent / "tmask" / "data" / "digits_cnn.safetensors"


class DigitsCnn(nn.Module):
    """Images (B, 1, 8, 8) with values in 0..1 -> logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(512, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.conv1(images))  # (B, 16, 8, 8)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)  # (B, 32, 4, 4)
        x = functional.relu(self.fc1(x.flatten(1)))  # (B, 128)
        logits: torch.Tensor = self.fc2(x)
        return logits


def train() -> tuple[DigitsCnn, float]:
    """A trained network and its accuracy on a quarter of the images that it never saw."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]  # (1797, 1, 8, 8)
    labels = torch.tensor(digits.target)
    chosen, held_out = train_test_split(range(len(labels)), test_size=0.25, random_state=SEED, stratify=labels)
    model = DigitsCnn()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * -(-len(chosen) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for batch in torch.tensor(chosen)[torch.randperm(len(chosen))].split(BATCH):
            loss = functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        right = model(images[held_out]).argmax(1) == labels[held_out]
    return model, float(right.float().mean())


def main() -> None:
    """Train, print the accuracy, write the file."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    model, accuracy = train()
    print(f"test accuracy {accuracy:.4f}")
    metadata = {
        "made_by": "bench/train_digits.py",
        "data": "sklearn.datasets.load_digits",
        "test_accuracy": f"{accuracy:.4f}",
        "torch": torch.__version__,
    }
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        # Beside the target: a file can be renamed within one file system alone.
        unfinished = Path(folder) / target.name
        save_file(state, unfinished, metadata)
        os.chmod(unfinished, 0o644)
        unfinished.replace(target)
    print(f"wrote {target} ({target.stat().st_size} bytes)")


if __name__ == "__main__":
    main()

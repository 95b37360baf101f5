"""Real weights that come with the package: a small network trained on scikit-learn's digits."""

from __future__ import annotations

from pathlib import Path

_FILE = Path(__file__).parents[1] / "data" / "digits_cnn.safetensors"


def builtin_weights() -> Path:
    """The path of a small safetensors file of trained weights, made by bench/train_digits.py; its metadata says how."""
    return _FILE

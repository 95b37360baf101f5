"""Weights that a file holds in two parts, a weight before pruning and a mask beside it: read as their product.

`torch.nn.utils.prune` stores `fc.weight_orig` and `fc.weight_mask`, and a sparsified model its parametrization. What
the model computes with is the product, so a search on the first part alone would bring back what was pruned.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tmask.files.tensors import Tensor
from tmask.files.weight_file import WeightFile

_ORIGINALS = (
    (re.compile(r"_orig$"), "_mask"),
    (re.compile(r"(^|(?<=\.))(parametrizations\.\w+)\.original$"), r"\2.0.mask"),
)


def read_pairs(file: WeightFile) -> WeightFile:
    """The file with such weights as they are computed with; all other tensors, and all names, as they are."""
    pairs = mask_names(file.shapes)
    if not pairs:
        return file

    def product(tensor: Tensor, mask: Tensor) -> Tensor:
        return replace(tensor, bits=np.where(mask.bits != 0, tensor.bits, tensor.bits.dtype.type(0)))

    def load(name: str) -> Tensor:
        return product(file.load(name), file.load(pairs[name])) if name in pairs else file.load(name)

    def load_part(name: str, start: int, stop: int) -> Tensor:
        tensor = file.parts(name)(start, stop)
        return product(tensor, file.parts(pairs[name])(start, stop)) if name in pairs else tensor

    return replace(file, load=load, load_part=None if file.load_part is None else load_part)


def mask_names(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """The mask of each weight that has one beside it."""
    found = {}
    for name, shape in shapes.items():
        for original, mask in _ORIGINALS:
            other = original.sub(mask, name)
            if other != name and shapes.get(other) == shape:
                found[name] = other
    return found

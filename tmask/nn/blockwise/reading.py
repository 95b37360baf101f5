"""Who multiplies with which weight: products seen as they are called, whatever module calls them.

Linear layers, GPT-2's `Conv1D`, and the experts of a stack reach their weights in different ways, but all of them call
one of a few functions of torch with a tensor that is, or is a part of, a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# Names of the inputs, the weight and what is added, in the order of the arguments; and whether the product reads the
# weight as (outputs, inputs).
_PRODUCTS: dict[Any, tuple[tuple[str, ...], bool]] = {
    functional.linear: (("input", "weight", "bias"), True),
    torch.addmm: (("bias", "input", "weight"), False),
    torch.matmul: (("input", "weight"), False),
    torch.mm: (("input", "weight"), False),
    Tensor.matmul: (("input", "weight"), False),
    Tensor.__matmul__: (("input", "weight"), False),
}
_SAME = {"mat1": "input", "mat2": "weight", "other": "weight"}  # other names of the same arguments


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """A matrix of a block: a parameter, or one of the matrices that it stacks.

    Args:
        parameter: its name in the block.
        index: in the stack, -1 for a parameter that is one matrix.
    """

    parameter: str
    index: int = -1

    def __str__(self) -> str:
        return self.parameter if self.index < 0 else f"{self.parameter}[{self.index}]"


@dataclass(frozen=True, slots=True)
class Product:
    """One product with a matrix.

    Args:
        inputs: (..., C).
        outputs_first: whether the matrix is stored (R, C), else (C, R).
        result: (..., R), with the bias.
        bias: what was added to the product, or None.
    """

    key: Key
    inputs: Tensor
    outputs_first: bool
    result: Tensor
    bias: Tensor | None


class Reading(TorchFunctionMode):
    """While it is active, `on_product` is called after each product with a parameter.

    Args:
        parameters: by name; of two axes, or of three for a stack of matrices.
    """

    def __init__(self, parameters: Mapping[str, Tensor], on_product: Callable[[Product], None]) -> None:
        super().__init__()
        self._where = {tensor.untyped_storage().data_ptr(): (name, tensor) for name, tensor in parameters.items()}
        self._on_product = on_product

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        if func in _PRODUCTS:
            names, outputs_first = _PRODUCTS[func]
            given = dict(zip(names, args, strict=False)) | {_SAME.get(key, key): value for key, value in named.items()}
            weight = given["weight"]
            if isinstance(weight, Tensor) and (key := self._key(weight)) is not None:
                turned = _is_turned(weight, self._where[weight.untyped_storage().data_ptr()][1])
                self._on_product(Product(key, given["input"], outputs_first != turned, result, given.get("bias")))
        return result

    def _key(self, weight: Tensor) -> Key | None:
        found = self._where.get(weight.untyped_storage().data_ptr()) if weight.ndim == 2 else None
        if found is None:
            return None
        name, parameter = found
        if parameter.ndim == 2:
            return Key(name) if weight.numel() == parameter.numel() else None
        if weight.numel() * parameter.shape[0] != parameter.numel():
            return None
        return Key(name, (weight.storage_offset() - parameter.storage_offset()) // parameter.stride(0))


def _is_turned(weight: Tensor, parameter: Tensor) -> bool:
    """Whether a product reads the transpose of the matrix that is stored."""
    return weight.stride() != parameter.stride()[-2:] and weight.stride() == parameter.stride()[:-3:-1]


def matrix_parameters(block: nn.Module) -> dict[str, nn.Parameter]:
    """The floating parameters of two or three axes."""
    return {
        name: parameter
        for name, parameter in block.named_parameters()
        if parameter.ndim in (2, 3) and parameter.is_floating_point()
    }

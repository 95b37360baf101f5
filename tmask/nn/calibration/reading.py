"""Who multiplies with which weight: products seen as they are called, whatever module calls them.

Linear layers, GPT-2's `Conv1D`, and the experts of a stack reach their weights in different ways, but all of them call
one of a few functions of torch with a tensor that is, or is a part of, a parameter. Whoever wants the inputs alone, and
ends the pass there, does not pay for the product.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# Names of the inputs, the weight and what is added, in the order of the arguments; and whether the product reads the
# weight as (outputs, inputs).
_TWO = ("input", "weight"), False
_PRODUCTS: dict[Any, tuple[tuple[str, ...], bool]] = {
    functional.linear: (("input", "weight", "bias"), True),
    torch.addmm: (("bias", "input", "weight"), False),
    **dict.fromkeys((torch.matmul, torch.mm, torch.bmm), _TWO),
    **dict.fromkeys((Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm), _TWO),
}
_SAME = {"mat1": "input", "mat2": "weight", "other": "weight"}  # other names of the same arguments
_MATRIX, _STACK = 2, 3  # axes


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
        result: gives (..., R), with the bias; computed when first asked for.
        bias: what is added to the product, or None.
    """

    key: Key
    inputs: Tensor
    outputs_first: bool
    result: Callable[[], Tensor]
    bias: Tensor | None = None


class Reading(TorchFunctionMode):
    """While it is active, `on_product` is called at each product with a parameter, before it is computed.

    Args:
        parameters: by name; of two axes, or of three for a stack of matrices.
    """

    def __init__(self, parameters: Mapping[str, Tensor], on_product: Callable[[Product], None]) -> None:
        super().__init__()
        self._parameters = parameters
        # By where its first number lies: parts of a stack have places of their own.
        self._where = {matrix.data_ptr(): key for key, matrix in _matrices(parameters)}
        self._on_product = on_product

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func not in _PRODUCTS:
            return func(*args, **named)
        result = functools.cache(lambda: func(*args, **named))
        names, outputs_first = _PRODUCTS[func]
        given = dict(zip(names, args, strict=False)) | {_SAME.get(key, key): value for key, value in named.items()}
        for product in self._products(given, outputs_first, result):
            self._on_product(product)
        return result()

    def _products(
        self, given: Mapping[str, Any], outputs_first: bool, result: Callable[[], Tensor]
    ) -> Iterator[Product]:
        weight, inputs = given["weight"], given["input"]
        key = self._where.get(weight.data_ptr()) if isinstance(weight, Tensor) and weight.numel() else None
        if key is None or (turned := _turned(weight, self._parameters[key.parameter])) is None:
            return
        if weight.ndim == _MATRIX:
            yield Product(key, inputs, outputs_first != turned, result, given.get("bias"))
            return
        for index in range(len(weight)):  # a stack as a whole: each matrix has its own inputs
            one = functools.partial(lambda index: result()[index], index)
            yield Product(Key(key.parameter, index), inputs[index], outputs_first != turned, one)


def _matrices(parameters: Mapping[str, Tensor]) -> Iterator[tuple[Key, Tensor]]:
    for name, parameter in parameters.items():
        if parameter.ndim == _MATRIX:
            yield Key(name), parameter
        else:
            yield from ((Key(name, index), parameter[index]) for index in range(len(parameter)))


def _turned(weight: Tensor, parameter: Tensor) -> bool | None:
    """Whether a product reads the transpose of the matrix that is stored; None if it reads another part of it."""
    if weight.ndim > parameter.ndim or (weight.ndim == _STACK and len(weight) != len(parameter)):
        return None
    own = parameter.shape[-2:], parameter.stride()[-2:]
    read = weight.shape[-2:], weight.stride()[-2:]
    if read == own:
        return False
    return True if read == (own[0][::-1], own[1][::-1]) else None


def matrix_parameters(block: nn.Module) -> dict[str, nn.Parameter]:
    """The floating parameters of two or three axes."""
    return {
        name: parameter
        for name, parameter in block.named_parameters()
        if parameter.ndim in (_MATRIX, _STACK) and parameter.is_floating_point() and parameter.numel()
    }

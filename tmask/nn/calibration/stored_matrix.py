"""A matrix that no linear layer holds: GPT-2's `Conv1D`, a parameter that is multiplied with as it is, an expert.

What it reads is seen by `Reading`, not by hooks.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from tmask.nn.calibration.reading import Key
from tmask.nn.calibration.weight_view import WeightView


@dataclass(frozen=True)
class StoredMatrix(WeightView):
    """A parameter of two axes, or one of the matrices of a stack.

    Args:
        model: that holds it.
        key: its name, and its place in a stack.
        outputs_first: whether it is stored (R, C), else (C, R).
    """

    model: nn.Module
    key: Key
    outputs_first: bool

    @property
    def routed(self) -> bool:
        """Whether the data decide which samples come to it: of a stack, one matrix each."""
        return self.key.index >= 0

    @property
    def parameter(self) -> Tensor:
        whole = self.model.get_parameter(self.key.parameter)
        return whole[self.key.index] if self.routed else whole

    @property
    def bias(self) -> Tensor | None:
        bias = bias_of(self.model, self.key)
        return bias if bias is not None and bias.shape == (self.rows,) else None

    @property
    def tiled_shape(self) -> tuple[int, ...]:
        stored = tuple(self.parameter.shape)
        return stored if self.outputs_first else stored[::-1]

    @property
    def stored_shape(self) -> tuple[int, ...]:
        return tuple(self.model.get_parameter(self.key.parameter).shape)

    def matrices(self, tensor: Tensor) -> Tensor:
        return (tensor if self.outputs_first else tensor.T)[None]

    def tensor(self, matrices: Tensor) -> Tensor:
        return matrices[0] if self.outputs_first else matrices[0].T

    def inputs(self, x: Tensor) -> Tensor:
        return x.reshape(1, -1, x.shape[-1])

    def outputs(self, y: Tensor) -> Tensor:
        return y.reshape(1, -1, y.shape[-1])

    def of(self, model: nn.Module, name: str) -> StoredMatrix:
        return StoredMatrix(model, self.key, self.outputs_first)


def bias_of(model: nn.Module, key: Key) -> Tensor | None:
    """The bias that is added to the products with a matrix, where its module has one of the usual name."""
    module_name, _, name = key.parameter.rpartition(".")
    module = model.get_submodule(module_name)
    bias = getattr(module, "bias", None) if name == "weight" else getattr(module, f"{name}_bias", None)
    if not isinstance(bias, nn.Parameter):
        return None
    return bias.data if key.index < 0 else bias.data[key.index]

"""What a method is given: a layer's weight, the second moments of its inputs, and the masks that are allowed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tmask.errors import InvalidProblemError
from tmask.nn.methods.support import Support

_DTYPES = (torch.float32, torch.float64)
AT_ONCE = 256  # rows or columns of a matrix of moments that are taken to float64 together


@dataclass(frozen=True, slots=True)
class Problem:
    """A layer to prune.

    Args:
        weight: (R, C) float32 or float64, dense.
        moments: (C, C) X^T X / S of the inputs that the pruned layer will read; of the weight's dtype and device.
        cross: (C, C) X^T X_dense / S, where the pruned layer is to give what the dense one gives on the dense model's
            inputs; None where it is to give what the dense one gives on the same inputs.
        support: the masks that are allowed, and who finds them.
        energy: ||X_dense W0^T||^2 / S, the mean squared length of the dense model's outputs. With `cross`, the relative
            error can be told only if it is given.
    Raises:
        InvalidProblemError: shapes, dtypes or devices that do not fit; NaN or infinite values; a negative moment.
    """

    weight: Tensor
    moments: Tensor
    cross: Tensor | None
    support: Support
    energy: float | None = None

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.weight.numel() == 0 or self.weight.dtype not in _DTYPES:
            raise InvalidProblemError(
                f"weight is {self.weight.dtype} of shape {tuple(self.weight.shape)}; it must be a matrix (outputs, "
                "inputs) of float32 or float64"
            )
        _check_finite("weight", self.weight)
        self._check_square("moments", self.moments)
        if self.cross is not None:
            self._check_square("cross", self.cross)
        elif self.energy is not None:
            raise InvalidProblemError("energy goes with cross; without it, it follows from weight and moments")
        if bool((self.moments.diagonal() < 0).any()):
            raise InvalidProblemError("moments: a negative mean square on the diagonal; give X^T X / S")

    def _check_square(self, name: str, matrix: Tensor) -> None:
        columns = self.weight.shape[1]
        if matrix.shape != (columns, columns):
            raise InvalidProblemError(
                f"{name} is of shape {tuple(matrix.shape)}; for a weight with {columns} inputs it must be "
                f"({columns}, {columns})"
            )
        if matrix.dtype != self.weight.dtype or matrix.device != self.weight.device:
            raise InvalidProblemError(
                f"{name} is {matrix.dtype} on {matrix.device}, but weight {self.weight.dtype} on {self.weight.device}"
            )
        _check_finite(name, matrix)

    def error(self, weight: Tensor) -> float | None:
        """||X W^T - Y||^2 / ||Y||^2 of weights W, where Y is what the layer is to give; None where ||Y|| is not known.

        0 where Y is 0.
        """
        dense, given = self.weight.double(), weight.double()
        if self.cross is None:
            energy = _form(dense, self.moments, dense)
            missed = _form(given - dense, self.moments, given - dense)
        elif self.energy is None:
            return None
        else:
            energy = self.energy
            missed = _form(given, self.moments, given) - 2 * _form(given, self.cross, dense) + energy
        return max(missed, 0.0) / energy if energy > 0 else 0.0


def _form(left: Tensor, matrix: Tensor, right: Tensor) -> float:
    """tr (L M R^T) of L, R (R, C) in float64; M (C, C) of any dtype is never held in float64 as a whole."""
    parts = (
        ((left @ part.double()) * other).sum()
        for part, other in zip(torch.split(matrix, AT_ONCE, 1), torch.split(right, AT_ONCE, 1), strict=True)
    )
    return float(torch.stack([*parts]).sum())


def _check_finite(name: str, tensor: Tensor) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise InvalidProblemError(f"{name} holds NaN or infinite values")

"""Whether a tensor is what it was, as far as torch's counters tell."""

from __future__ import annotations

from torch import Tensor

Stamp = tuple[object, ...]


def stamp_of(tensor: Tensor) -> Stamp:
    """Changes whenever the contents are known to have changed: a new tensor, another memory, a write in place."""
    # A tensor made in inference mode keeps no version, and reading one raises.
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version, tensor.device

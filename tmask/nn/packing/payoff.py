"""Whether a packed product is worth it, by measurement: GPU, torch and shape decide it, and no rule foresees it."""

from __future__ import annotations

import warnings

import torch

from tmask.errors import KernelError
from tmask.nn.packing.routes import Route
from tmask.nn.packing.support import find_fitting
from tmask.nn.packing.timing import measure_linear
from tmask.nn.packing.verification import verify

TOKENS = 8192  # in a batch, where nobody says how many

# A model has a handful of shapes, and a measurement takes seconds.
_paid: dict[tuple[tuple[int, ...], torch.dtype, torch.device, int], tuple[bool, str]] = {}


def pays(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str, tokens: int = TOKENS
) -> tuple[bool, str]:
    """Whether a step with the packed weight is faster than with the dense masked one, and by what measurement.

    A step is forward, backward and one packing, for this many tokens; verified, then measured once in a process.

    Raises:
        InvalidProblemError: the weight is not supported.
    """
    device = torch.device(device)
    key = tuple(shape), dtype, device, tokens
    if key not in _paid:
        _paid[key] = _measured(find_fitting(shape, dtype, device), *key)
    return _paid[key]


def _measured(
    route: Route, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, tokens: int
) -> tuple[bool, str]:
    rows, cols = shape
    try:
        verify(route, (rows, cols), dtype, device)
        timing = measure_linear(route, (rows, cols), dtype, device, tokens)
    except KernelError as error:
        # A warning: nobody has asked for this kernel by name, and training can go on without it.
        warnings.warn(f"masked products instead of packed ones: {error}", RuntimeWarning, stacklevel=2)
        return False, str(error)
    except torch.cuda.OutOfMemoryError as error:
        return False, f"no memory to measure it with {tokens} tokens ({error})"
    # Against the masked product, which the layer runs otherwise; a dense one is not to be had under a mask.
    return timing.sparse < timing.masked, (
        f"{route.name}: {1e3 * timing.sparse:.3g} ms packed ({1e3 * timing.pack:.3g} of them packing) against "
        f"{1e3 * timing.masked:.3g} ms masked, measured with {tokens} tokens"
    )

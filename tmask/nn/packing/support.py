"""Which weights packed products take, and whether they are worth it: by rules, then by measurement."""

from __future__ import annotations

import warnings

import torch

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError, KernelError
from tmask.nn.packing.routes import Route, find_route
from tmask.nn.packing.timing import measure_linear
from tmask.nn.packing.verification import verify

TOKENS = 8192  # in a batch, where nobody says how many

_paid: dict[tuple[tuple[int, ...], torch.dtype, torch.device, int], tuple[bool, str]] = {}


def supported(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str, pattern: Pattern | str
) -> tuple[bool, str]:
    """Whether a weight (out, in) can be packed for this device, and why not.

    Args:
        dtype: that the layer multiplies in: the autocast dtype under autocast.
    """
    if Pattern.parse(pattern) != Pattern(2, 4):
        return False, f"sparse tensor cores multiply 2:4 alone, not {Pattern.parse(pattern)}"
    route, problem = find_route(torch.device(device))
    if route is None:
        return False, problem
    problem = misfit(route, shape, dtype)
    return not problem, problem


def misfit(route: Route, shape: tuple[int, ...], dtype: torch.dtype) -> str:
    """Why a weight of this shape and dtype does not fit a route, wherever it runs, or ""."""
    if len(shape) != 2:
        return f"a weight of {len(shape)} axes; the kernels multiply matrices of linear layers"
    if dtype not in route.dtypes:
        names = " and ".join(str(one).removeprefix("torch.") for one in route.dtypes)
        return (
            f"dtype {str(dtype).removeprefix('torch.')}; the kernels multiply {names} (autocast, or convert the model)"
        )
    if not all(side and side % route.multiple == 0 for side in shape):
        return f"shape {shape[0]}x{shape[1]}; {route.name} needs both sides in multiples of {route.multiple}"
    return ""


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
        warnings.warn(f"masked products instead of packed ones: {error}", RuntimeWarning, stacklevel=2)
        return False, str(error)
    except torch.cuda.OutOfMemoryError as error:
        return False, f"no memory to measure it with {tokens} tokens ({error})"
    return timing.sparse < timing.masked, (
        f"{route.name}: {1e3 * timing.sparse:.3g} ms packed ({1e3 * timing.pack:.3g} of them packing) against "
        f"{1e3 * timing.masked:.3g} ms masked, measured with {tokens} tokens"
    )


def find_fitting(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Route:
    """The route for this weight on this device; raises InvalidProblemError where there is none."""
    fits, problem = supported(shape, dtype, device, "2:4")
    route, _ = find_route(device)
    if route is None or not fits:
        raise InvalidProblemError(f"no packed product: {problem}; use backend 'masked'")
    return route

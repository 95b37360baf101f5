"""Which weights packed products take, by rules that need no measurement."""

from __future__ import annotations

import torch

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn.packing.routes import Route, find_route


def supported(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str, pattern: Pattern | str
) -> tuple[bool, str]:
    """Whether a weight (out, in) can be packed for this device, and why not.

    Args:
        dtype: that the layer multiplies in: the autocast dtype under autocast.
    """
    # The pattern first: on any machine, it is what the user can change.
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
    # float32 has sparse kernels too, but for one of two, not two of four.
    if dtype not in route.dtypes:
        names = " and ".join(str(one).removeprefix("torch.") for one in route.dtypes)
        return (
            f"dtype {str(dtype).removeprefix('torch.')}; the kernels multiply {names} (autocast, or convert the model)"
        )
    # 0 is a multiple of everything.
    if not all(side and side % route.multiple == 0 for side in shape):
        return f"shape {shape[0]}x{shape[1]}; {route.name} needs both sides in multiples of {route.multiple}"
    return ""


def find_fitting(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Route:
    """The route for this weight on this device; raises InvalidProblemError where there is none."""
    fits, problem = supported(shape, dtype, device, "2:4")
    route, _ = find_route(device)
    if route is None or not fits:
        raise InvalidProblemError(f"no packed product: {problem}; use backend 'masked'")
    return route

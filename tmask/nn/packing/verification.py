"""A route is believed on a device once its products have been compared there with those of the dense masked weight.

By rows of the identity matrix first, then by random tokens; why, and why for each shape: docs/decisions/0003.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from tmask.errors import KernelError
from tmask.nn.packing.algorithms import default_alone
from tmask.nn.packing.operators import packed_product
from tmask.nn.packing.routes import Route
from tmask.nn.packing.trials import random_mask

_SLICE = 4096  # rows of the identity at a time, to bound memory
_COUNTS = (13, 256)  # of tokens: one that is padded, one that is not

_verified: set[tuple[str, torch.device, torch.dtype, tuple[int, int]]] = set()


def verify(route: Route, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    """Return if this route multiplies right for weights of this shape and dtype here; looked at once in a process.

    Raises:
        KernelError: it does not, or a kernel fails; the text says what differs, and where first.
    Cost: four products with each side of the weight for tokens, and as much dense.
    """
    key = (route.name, device, dtype, shape)
    if key in _verified:
        return
    try:
        with (
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
            default_alone(),
        ):  # whatever the caller is in the middle of
            _compare(route, shape, dtype, device)
    except RuntimeError as error:
        if isinstance(error, KernelError | torch.cuda.OutOfMemoryError):
            raise
        # Whatever torch's private operators raise: a library that does not load, a device that they do not know.
        raise KernelError(f"{route.name} fails on {device}: {error}; use backend 'masked' here") from error
    _verified.add(key)


def _compare(route: Route, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    generator = torch.Generator(device).manual_seed(0)
    mask = random_mask(*shape, device)
    weight = torch.randn(shape, generator=generator, device=device).to(dtype)
    plan = route.plan(mask, dtype)
    # Packed from another weight first, as in training: what a step writes is what is to be believed.
    forward, backward = route.repack(route.pack(-weight, plan), weight, plan)
    masked = torch.where(mask, weight, 0)
    where = f"{route.name} with a {shape[0]}x{shape[1]} weight, {dtype}, on {device}"
    for name, operand, matrix in (("W", forward, masked), ("W^T", backward, masked.t())):
        _check_places(route, operand, matrix, f"{where}: the product with packed {name}")
        _check_sums(route, operand, matrix, f"{where}: the product with packed {name}", generator)


def _check_places(route: Route, operand: list[Tensor], matrix: Tensor, what: str) -> None:
    rows, cols = matrix.shape
    for first in range(0, cols, _SLICE):
        count = min(_SLICE, cols - first)
        tokens = matrix.new_zeros(count, cols)
        # 1 and 0 are exact in every dtype, so that any difference is a weight in a wrong place.
        tokens.diagonal(first).fill_(1)
        wrong = packed_product(tokens, operand, rows, route.name) != matrix[:, first : first + count].t()
        if wrong.any():
            column, row = divmod(int(wrong.flatten().to(torch.uint8).argmax()), rows)
            raise KernelError(
                f"{what} puts wrong values in {int(wrong.sum())} places, first at row {row}, column {first + column}; "
                "use backend 'masked' here"
            )


def _check_sums(route: Route, operand: list[Tensor], matrix: Tensor, what: str, generator: torch.Generator) -> None:
    rows, cols = matrix.shape
    dtype, device = matrix.dtype, matrix.device
    # Padded tokens are copied, so that only the others can lie by columns.
    layouts = [(count, False) for count in _COUNTS] + [(_COUNTS[-1], True)] * route.takes_transposed(dtype)
    for (count, by_columns), with_bias in itertools.product(layouts, (False, True)):
        tokens = torch.randn(count, cols, generator=generator, device=device).to(dtype)
        tokens = tokens.t().contiguous().t() if by_columns else tokens
        bias = torch.randn(rows, generator=generator, device=device).to(dtype) if with_bias else None
        result = packed_product(tokens, operand, rows, route.name, bias).double()
        # In float64, whose own rounding is nothing here, so that the whole error is the kernel's.
        expected = tokens.double() @ matrix.double().t()
        size = tokens.double().abs() @ matrix.double().abs().t()  # what rounding is relative to
        if bias is not None:
            expected += bias.double()
            size += bias.double().abs()
        # A result that is NaN counts as infinitely far off: no comparison with NaN is true.
        error = float(((result - expected).abs() / size.clamp_min(torch.finfo(dtype).tiny)).nan_to_num(torch.inf).max())
        # Rounding the result is half an eps of it, and the bias may be one more; a lost weight is far above.
        if error > 2 * torch.finfo(dtype).eps:
            given = f"{count} tokens{' by columns' * by_columns}, {'with' if with_bias else 'without'} bias"
            raise KernelError(f"{what}, {given}, is off by {error:.2g} of its size; use backend 'masked' here")

"""Exact transposable masks for Apex's ASP, in the form in which it takes its own.

    ASP.init_model_for_pruning(model, mask_calculator=create_mask, ...)

ASP calls a `mask_calculator` with each weight; `functools.partial(create_mask, pattern="4:8")` chooses another pattern.
`create_mask(tensor, pattern)` is also what `apex.contrib.sparsity.sparse_masklib.create_mask` is called with.
"""

from __future__ import annotations

import re

from torch import Tensor

import tmask
from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError


def create_mask(tensor: Tensor, pattern: str = "m4n2_2d_best") -> Tensor:
    """The mask for one weight.

    Args:
        tensor: (rows, cols) or (Cout, Cin, *kernel), which is tiled at each kernel position.
        pattern: in Apex's words, "m4n2_2d_best" for the exact mask and "m4n2_2d_greedy" for a greedy one, with n kept
            of every m and any n and m; or "n:m", exact. The masks keep n of every m along both axes.
    Returns:
        bool, the weight's shape and device, True = kept.
    Raises:
        InvalidProblemError: another pattern, those of one direction ("m4n2_1d") among them, or a weight that has no
            blocks.
    """
    text, solver = _parse(pattern)
    # Not certified: ASP takes the mask alone, and nobody would see the proof.
    mask: Tensor = tmask.solve(tensor, text, solver, layout="convolution", certify=False).mask
    return mask


def _parse(pattern: str) -> tuple[Pattern, str]:
    # In Apex m comes first, and n counts what is kept, as here.
    match = re.fullmatch(r"m(\d+)n(\d+)_(\w+)", pattern)
    if match is None:
        return Pattern.parse(pattern), "auto"
    m, n, kind = match.groups()
    solvers = {"2d_best": "auto", "2d_greedy": "greedy-keep"}
    if kind not in solvers:
        raise InvalidProblemError(
            f"pattern {pattern!r} asks for {kind}; masks that hold in both directions are m{m}n{n}_2d_best and "
            f"m{m}n{n}_2d_greedy"
        )
    return Pattern(int(n), int(m)), solvers[kind]

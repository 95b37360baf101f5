"""1:4, 2:4 and 3:4 as a CUDA kernel in closed form, a tile a thread.

The formulas and their proofs are those of the CPU (`cpu_kernels.closed`), which take any values that have the operators
of `vector.Vector`. `Term` has them, too, and writes down a Python function as they are used, which becomes the
kernel's. A tile whose mask float32 may have rounded wrongly goes to the list of tiles left over, and is solved on the
integer grid (`paths`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tmask_solvers.cpu_kernels.closed.solve import GUARD, LARGEST, masks_of, nothing_rounded, total_of
from tmask_solvers.cpu_kernels.vector import Vector
from tmask_solvers.cuda_kernels.code.kernels import SIDE
from tmask_solvers.cuda_kernels.code.lines import WARP, inlined
from tmask_solvers.cuda_kernels.code.listing import make_list
from tmask_solvers.cuda_kernels.code.places import FIRST, make_places


class Term(Vector):
    """A variable of a function that is being written, with the operators of a Vector.

    Args:
        lines: of the function so far.
        name: of the variable.
        wrap: what a plain number becomes as the other operand.
    """

    def __init__(self, lines: list[str], name: str, wrap: str = "float32") -> None:
        self.lines = lines
        self.name = name
        self.wrap = wrap

    def new(self, text: str, wrap: str = "") -> Term:
        name = f"t{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return Term(self.lines, name, wrap or self.wrap)

    def _binary(self, sign: str, other: Any, wrap: str = "") -> Term:
        right = other.name if isinstance(other, Term) else f"{self.wrap}({other!r})"
        return self.new(f"{self.name} {sign} {right}", wrap)

    def __add__(self, other: Any) -> Term:
        return self._binary("+", other)

    def __sub__(self, other: Any) -> Term:
        return self._binary("-", other)

    def __mul__(self, other: Any) -> Term:
        # Not *, which the compiler may fuse with a sum (docs/explanation/gpu-kernel.md).
        return self.new(f"multiply({self.name}, {self.wrap}({other!r}))")

    def __neg__(self) -> Term:
        return self.new(f"-{self.name}")

    def __abs__(self) -> Term:
        return self.new(f"abs({self.name})")

    def __gt__(self, other: Any) -> Term:
        return self._binary(">", other, "bool")

    def equals(self, other: Any) -> Term:
        return self._binary("==", other, "bool")

    def matches(self, other: Any) -> Term:
        return self._binary("==", other, "bool")

    def __and__(self, other: Any) -> Term:
        return self._binary("&", other)

    def __or__(self, other: Any) -> Term:
        return self._binary("|", other)

    def __xor__(self, other: Any) -> Term:
        return self._binary("^", other)

    def where(self, yes: Any, no: Any) -> Term:
        return self.new(f"{yes.name} if {self.name} else {no.name}", yes.wrap)

    def constant(self, kind: Any, number: float) -> Term:
        return self.new(f"int32({number!r})", "int32")


def make_formula(cuda: Any, n: int) -> Any:
    """formula(weight, at, down, across, widen): words of the rows (`masks_of`), and whether float32 proves them."""
    # Written out, since the formulas handle lists of terms, which numba-cuda does not take.
    lines: list[str] = []
    tile = Term(lines, "")
    rows: Any = [
        [tile.new(f"widen(weight[at + uint64({i}) * down + uint64({j}) * across])") for j in range(SIDE)]
        for i in range(SIDE)
    ]
    total = total_of(rows)
    words, sure = masks_of(rows, n, total * GUARD)
    proven = (sure | nothing_rounded(rows, total)) & (tile.new(f"float32({LARGEST!r})") > total)
    results: Any = (*words, proven)
    body = [*lines, f"return {', '.join(term.name for term in results)}"]
    scope: dict[str, Any] = {
        "float32": np.float32,
        "int32": np.int32,
        "uint64": np.uint64,
        "multiply": cuda.libdevice.fmul_rn,
    }
    exec("\n    ".join(["def formula(weight, at, down, across, widen):", *body]), scope)
    return inlined(cuda, scope["formula"])


def make_closed(cuda: Any, n: int, widen: Any, packed: bool, many: bool) -> Any:
    """The kernel for n:4.

    Args:
        cuda: numba.cuda.
        widen: device function from an entry of the weight to its magnitude as float32.
        packed: whether rows of the mask are written as one int32, of four bytes 0 or 1, and not as four bool.
        many: whether `where` tells of many matrices.
    """
    places, formula, take_place = make_places(cuda, many), make_formula(cuda, n), make_list(cuda)
    matrix_of, number, corner = places.matrix_of, places.number, places.corner

    def solve_tiles(weight: Any, mask: Any, where: Any, tiles: Any, left: Any, used: Any) -> None:
        """Masks of all tiles, and the list of those that are not proven.

        Args:
            weight, mask, where: see `places`; the mask's entries are its rows if packed.
            tiles, left, used: see `rounds`.
        """
        lane = cuda.threadIdx.x & 31
        first = cuda.blockIdx.x * WARP
        while first < tiles:
            real_tile = first + lane < tiles
            tile = min(first + lane, tiles - 1)  # votes need all threads, so idle ones read a tile that exists
            r = matrix_of(where, tile)
            at, down, across, spot, mask_down, mask_across = corner(where, r, tile - number(where, r, FIRST))
            one, two, three, four, proven = formula(weight, at, down, across, widen)
            # Four words in four variables: indexed in a loop, they would lie in memory.
            if real_tile and packed:
                mask[spot] = one
                mask[spot + mask_down] = two
                mask[spot + np.uint64(2) * mask_down] = three
                mask[spot + np.uint64(3) * mask_down] = four
            elif real_tile:
                for j in range(SIDE):
                    column = spot + np.uint64(j) * mask_across
                    mask[column] = (one >> 8 * j) & 1 == 1
                    mask[column + mask_down] = (two >> 8 * j) & 1 == 1
                    mask[column + np.uint64(2) * mask_down] = (three >> 8 * j) & 1 == 1
                    mask[column + np.uint64(3) * mask_down] = (four >> 8 * j) & 1 == 1
            take_place(lane, tile, real_tile and not proven, left, used)
            first += cuda.gridDim.x * WARP

    return solve_tiles

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
from tmask_solvers.cuda_kernels.lines import WARP, find, inlined

SIDE = 4


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
    """formula(weight, k, g, y, x, widen): words of the four rows (`masks_of`), and whether float32 proves them."""
    # Written out, since the formulas handle lists of terms, which numba-cuda does not take.
    lines: list[str] = []
    tile = Term(lines, "")
    rows: Any = [[tile.new(f"widen(weight[k, g, y, x, {i}, {j}])") for j in range(SIDE)] for i in range(SIDE)]
    total = total_of(rows)
    words, sure = masks_of(rows, n, total * GUARD)
    proven = (sure | nothing_rounded(rows, total)) & (tile.new(f"float32({LARGEST!r})") > total)
    results: Any = (*words, proven)
    body = [*lines, f"return {', '.join(term.name for term in results)}"]
    scope: dict[str, Any] = {"float32": np.float32, "int32": np.int32, "multiply": cuda.libdevice.fmul_rn}
    exec("\n    ".join(["def formula(weight, k, g, y, x, widen):", *body]), scope)
    return inlined(cuda, scope["formula"])


def make_closed(cuda: Any, n: int, widen: Any, packed: bool) -> Any:
    """The kernel for n:4.

    Args:
        cuda: numba.cuda.
        widen: device function from an entry of the weight to its magnitude as float32.
        packed: whether rows of the mask are written as one int32, of four bytes 0 or 1, and not as four bool.
    """
    find_tile, formula = inlined(cuda, find), make_formula(cuda, n)

    def solve_tiles(
        weight: Any, mask: Any, across: Any, down: Any, groups: Any, tiles: Any, left: Any, used: Any
    ) -> None:
        """Masks of all tiles, and the list of those that are not proven.

        Args:
            weight: (K, G, down, across, 4, 4).
            mask: of that shape, bool; (K, G, down, across, 4, 1) int32 if packed.
            tiles, left, used: see `rounds`.
        """
        tile = cuda.blockIdx.x * WARP + (cuda.threadIdx.x & 31)
        while tile < tiles:
            k, g, y, x = find_tile(tile, across, down, groups)
            first, second, third, fourth, proven = formula(weight, k, g, y, x, widen)
            # Four words in four variables: indexed in a loop, they would lie in memory.
            if packed:
                mask[k, g, y, x, 0, 0] = first
                mask[k, g, y, x, 1, 0] = second
                mask[k, g, y, x, 2, 0] = third
                mask[k, g, y, x, 3, 0] = fourth
            else:
                for j in range(SIDE):
                    mask[k, g, y, x, 0, j] = (first >> 8 * j) & 1 == 1
                    mask[k, g, y, x, 1, j] = (second >> 8 * j) & 1 == 1
                    mask[k, g, y, x, 2, j] = (third >> 8 * j) & 1 == 1
                    mask[k, g, y, x, 3, j] = (fourth >> 8 * j) & 1 == 1
            if not proven:
                left[cuda.atomic.add(used, 0, 1)] = tile
            tile += cuda.gridDim.x * WARP

    return solve_tiles

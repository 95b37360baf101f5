"""Straight-line device functions on the lines of a tile, whose entries stay in registers.

An array that is indexed by a loop counter would lie in memory, so a line is a tuple and the operations on it are
written out. This module makes the source of some functions for one n and m, from the min-max programs of
`shared.selection`; the CUDA compiler makes them part of the kernels that call them, which are plain Python around them.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from tmask_solvers.shared.constants import LAST_PLACE, PLACE_BITS
from tmask_solvers.shared.selection import order_pair

WARP = 32

Real = type[np.float32] | type[np.float64]


def lanes_per_tile(m: int) -> int:
    """Threads that share a tile of side m: a power of two, so that a warp holds whole tiles."""
    return 1 << (m - 1).bit_length()  # masks of lanes are shifts then, and no tile lies in two warps


def make_lines(cuda: Any, n: int, m: int, real: Real) -> SimpleNamespace:
    """Device functions for lines of m numbers; a line is a tuple, the place of its first entry in an array is `at`.

    - load(weight, at, apart, widen): entries of a column, magnitudes as `real`; the first is weight[at], the others
      `apart` entries from each other
    - spread(line, stage, at): to stage[at], stage[at + m + 1], ...
    - gather(stage, at): from stage[at], stage[at + 1], ...
    - total(line): the sum
    - pair(line, prices, at): n-th and (n+1)-th largest of line[j] - prices[at + j]
    - above(line, price, bounds, at): how many line[i] - price exceed bounds[at + i]; as `real`, which takes one
      instruction less an entry than an integer does
    - keep(mask, place, apart, line, price, bounds, at): which do, to a column of the mask, like that of the weight
    - extremes(line): the least, the largest, and whether all are finite (where not, the others may be anything)
    - quantise(line, q, at, s, t): s * t * entry, rounded to integers, to q[at], q[at + m + 1], ...; whether any was
    - keys(q, at, v, base, turn): q[at + j] - v[base + j], above the bits of a place: the later a column comes, counted
      from `turn` on, the lower
    - largest(line): the n-th largest
    - word(line, least): bit j is set if entry j is at least `least`

    Args:
        cuda: numba.cuda.
        real: float32 or float64, the dtype of scores.
    """
    every = range(m)
    operations, a, b = order_pair(m, n)
    selection = [f"x{out} = {kind}(x{p}, x{q})" for kind, out, p, q in operations]
    unpacked = [f"x{j} = line[{j}]" for j in every]
    listed = ", ".join(f"x{j}" for j in every)
    bodies = {
        "load(weight, at, apart, widen)": [
            *(f"x{i} = widen(weight[at + uint64({i}) * apart])" for i in every),
            f"return ({listed},)",
        ],
        "spread(line, stage, at)": [f"stage[at + {i * (m + 1)}] = line[{i}]" for i in every],
        "gather(stage, at)": [*(f"x{j} = stage[at + {j}]" for j in every), f"return ({listed},)"],
        "total(line)": [f"return {' + '.join(f'line[{j}]' for j in every)}"],
        "pair(line, prices, at)": [
            *(f"x{j} = line[{j}] - prices[at + {j}]" for j in every),
            *selection,
            f"return x{a}, x{b}",
        ],
        "above(line, price, bounds, at)": [
            *(f"x{i} = one if line[{i}] - price > bounds[at + {i}] else zero" for i in every),
            f"return {' + '.join(f'x{i}' for i in every)}",
        ],
        "keep(mask, place, apart, line, price, bounds, at)": [
            f"mask[place + uint64({i}) * apart] = line[{i}] - price > bounds[at + {i}]" for i in every
        ],
        "extremes(line)": [
            *unpacked,
            f"finite = {' and '.join(f'x{i} < infinity' for i in every)}",
            f"return min({listed}), max({listed}), finite",
        ],
        "quantise(line, q, at, s, t)": [
            "rounded = False",
            *(line for i in every for line in _quantised(i, f"at + {i * (m + 1)}")),
            "return rounded",
        ],
        "keys(q, at, v, base, turn)": [
            *(
                f"x{j} = ((q[at + {j}] - v[base + {j}]) << {PLACE_BITS}) + {LAST_PLACE} - ({j + m} - turn) % {m}"
                for j in every
            ),
            f"return ({listed},)",
        ],
        "largest(line)": [*unpacked, *selection, f"return x{a}"],
        "word(line, least)": [
            *(f"x{j} = int64({1 << j}) if line[{j}] >= least else int64(0)" for j in every),
            f"return {' | '.join(f'x{j}' for j in every)}",
        ],
    }
    scope: dict[str, Any] = {
        "one": real(1),
        "zero": real(0),
        "infinity": real(np.inf),
        "int64": np.int64,
        "uint64": np.uint64,
        "float64": np.float64,
        "multiply": cuda.libdevice.dmul_rn,
    }
    functions = {}
    # Text, because m numbers in m variables is nothing that a loop in Python can write.
    for head, body in bodies.items():
        exec("\n    ".join([f"def {head}:", *body]), scope)
        name = head.partition("(")[0]
        functions[name] = scope[name]
    return SimpleNamespace(**{name: inlined(cuda, function) for name, function in functions.items()})


def inlined(cuda: Any, function: Any) -> Any:
    """A device function that becomes a part of its callers: handed over in a call, a tuple would lie in memory."""
    return cuda.jit(function, device=True, forceinline=True)


def _quantised(i: int, place: str) -> list[str]:
    """Entry i of `quantise`; what is scaled to nothing was rounded, too."""
    return [
        f"scaled = multiply(multiply(float64(line[{i}]), s), t)",
        "whole = int64(scaled + 0.5)",
        f"q[{place}] = whole",
        f"rounded |= float64(whole) != scaled or (line[{i}] > zero and whole == 0)",
    ]

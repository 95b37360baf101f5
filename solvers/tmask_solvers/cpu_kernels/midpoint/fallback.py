"""A tile solved exactly from the prices at hand: the way out of the midpoint iteration, for every finite input.

Scores become whole numbers of a grid, in float64, so that all sums are exact; docs: exactness, section 3, says what is
lost where that rounds them. Rows then keep all entries above their price, ties fill them up (`filling`), and while a
column keeps too many, entries that tie are exchanged (`exchange`), or prices moved until some do (`distances`).
Entries that are kept have q - u - v >= 0, others <= 0, throughout, which is the proof once the columns balance.

Cost: O(m^2) from good prices, O(m^2) more for each change of them.
"""

from __future__ import annotations

import math

import numpy as np

from tmask_solvers.cpu_kernels.compiling import inlined, lean_kernel
from tmask_solvers.cpu_kernels.late import late_kernel
from tmask_solvers.cpu_kernels.midpoint.bits import STEP, compare, how_many
from tmask_solvers.cpu_kernels.midpoint.distances import change_prices
from tmask_solvers.cpu_kernels.midpoint.exchange import counted, exchange, exchange_at_once, reach
from tmask_solvers.cpu_kernels.midpoint.filling import fill
from tmask_solvers.cpu_kernels.midpoint.lanes import lowest_bit
from tmask_solvers.cpu_kernels.midpoint.room import Array, Paths, padded
from tmask_solvers.cpu_kernels.tiles import Window
from tmask_solvers.shared.constants import GRID_BITS, WILD_PRICE

_padded = inlined(padded)
_WHOLE = 1.5 * 2.0**52  # adding and subtracting it rounds numbers below 2^51 to whole ones
_GUESSES = 4


@late_kernel
def fall_back(window: Window, at: int, mask_at: int, n: int, m: int, paths: Paths) -> float:
    """Solve the tile at these places from the prices in `paths.start` and `paths.rows`, which receive the final ones.

    Any prices will do. Returns what the mask may lose against the optimum: 0 unless scores were rounded to the grid.
    """
    paths.tiles[0] += 1  # for tests, which count how many blocks come this way
    shift = _load(window, at, m, paths)
    # 2^shift itself may overflow.
    first, second = math.ldexp(1.0, shift // 2), math.ldexp(1.0, shift - shift // 2)
    rounded, unit = _to_grid(paths.q, first, second, m)
    for k in range(m):
        paths.v[k] = _to_units(paths.start[k] * first * second, unit)
        paths.u[k] = _to_units(paths.rows[k] * first * second, unit)
    for i in range(m):
        _settle_row(paths, i, unit, n, m)
    _balance(paths, n, m)
    for i in range(m):
        for j in range(m):
            window.mask[np.uint64(mask_at + i * window.mask_stride + j)] = (paths.kept[i] >> j) & 1
    # They are the proof, for whoever asked for prices.
    first, second = 1.0 / first, 1.0 / second
    for k in range(m):
        paths.start[k] = paths.v[k] * first * second
        paths.rows[k] = paths.u[k] * first * second
    # n * m entries are kept, and as many in the optimum, each off by half a unit of the grid at most.
    return math.ldexp(np.float64(n * m), -shift) if rounded else 0.0


@inlined
def _load(window: Window, at: int, m: int, paths: Paths) -> int:
    """Scores as they are into `paths.q`; returns the power of two that takes them to their grid, 0 if all are 0."""
    width = _padded(m)
    peaks = paths.to_row  # scratch
    peaks[:] = 0.0
    for i in range(m):
        for j in range(m):
            x = abs(np.float64(window.weight[np.uint64(at + i * window.stride + j)]))
            paths.q[np.uint64(i * width + j)] = x
            peaks[np.uint64(j)] = max(peaks[np.uint64(j)], x)
    high = 0.0
    for j in range(m):
        high = max(high, peaks[j])
    return GRID_BITS - math.frexp(high)[1] if high > 0.0 else 0


@inlined
def _to_grid(q: Array, first: float, second: float, m: int) -> tuple[bool, float]:
    """q times both, rounded to whole numbers; whether any was, and the largest power of two that divides all."""
    width = _padded(m)
    rounded = np.int64(0)
    bits = np.int64(0)
    for i in range(m):
        for j in range(m):
            score = q[np.uint64(i * width + j)]
            scaled = score * first * second
            whole = (scaled + _WHOLE) - _WHOLE
            q[np.uint64(i * width + j)] = whole
            bits |= np.int64(whole)
            # What is scaled to nothing was rounded, too: float64 spans more than its own exponents.
            rounded |= np.int64(whole != scaled) | np.int64((score > 0.0) & (whole == 0.0))
    return rounded != 0, np.float64(bits & -bits) if bits else 1.0


@inlined
def _to_units(price: float, unit: float) -> float:
    """The nearest multiple of the unit; where all scores are such, there are optimal prices that are, too."""
    # Any start will do, so a wild one is dropped: prices that overflowed, or became NaN.
    return ((price / unit + _WHOLE) - _WHOLE) * unit if abs(price) < WILD_PRICE else 0.0


@inlined
def _settle_row(paths: Paths, i: int, unit: float, n: int, m: int) -> None:
    """Make u_i a price above which at most n entries lie, and at least n with those at it."""
    for _ in range(_GUESSES):
        compare_row(paths, i, m)
        above = how_many(paths.above[i])
        if above > n:
            paths.u[i] += unit
        elif above + how_many(paths.level[i]) < n:
            paths.u[i] -= unit
        else:
            return
    paths.u[i] = _rank(paths, i, n, m)
    compare_row(paths, i, m)


@lean_kernel
def compare_row(paths: Paths, i: int, m: int) -> None:
    """Which entries of row i are above its price, and which are at it."""
    width = _padded(m)
    above, level = np.int64(0), np.int64(0)
    for k in range(0, width, STEP):
        both = compare(paths.q, i * width + k, paths.v, k, paths.u[i])
        above |= (both & 0xFF) << k
        level |= (both >> 32) << k
    paths.above[i] = above
    paths.level[i] = level


@lean_kernel
def _rank(paths: Paths, i: int, n: int, m: int) -> float:
    """The n-th largest q - v of row i."""
    top = paths.top
    top[:] = -np.inf
    for j in range(m):
        x = paths.q[i * _padded(m) + j] - paths.v[j]
        last = n
        if x > top[last]:
            while last > 0 and top[last - 1] < x:
                top[last] = top[last - 1]
                last -= 1
            top[last] = x
    return np.float64(top[n - 1])


@inlined
def _balance(paths: Paths, n: int, m: int) -> None:
    """Fill the rows, then exchange entries and change prices until every column keeps n."""
    digits = 2
    while 1 << (digits - 1) < m:
        digits += 1
    planes = paths.planes
    fill(paths.above, paths.level, paths.kept, planes, n, m, digits)
    # Raised by 2^(digits - 1), a column that lacks none has the highest digit alone.
    high = planes[digits - 1]
    rest = np.int64(0)
    for p in range(digits - 1):
        rest |= planes[p]
    everyone = (np.int64(1) << m) - 1
    over, under = ~high & everyone, high & rest & everyone
    over, under = exchange_at_once(paths, over, under, digits, m)
    while over:
        columns, rows, steps = reach(paths.level, paths.kept, over, under, paths.row_of, paths.into, m)
        if steps == 0:
            change_prices(paths, columns, rows, under, m)
            for i in range(m):
                compare_row(paths, i, m)
            continue
        end = lowest_bit(paths.into[steps - 1] & under)
        begin = exchange(paths.level, paths.kept, over, end, steps, paths.row_of, paths.into)
        over &= ~counted(planes, digits, begin, 1)
        under &= ~counted(planes, digits, end, -1)

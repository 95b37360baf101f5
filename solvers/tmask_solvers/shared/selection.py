"""Straight-line min-max programs for the n-th and (n+1)-th largest of m wires.

Both halves are sorted in descending order by Batcher's odd-even merge sort [Knuth1997 volume 3, 5.3.4]. For sorted A
and B and i + j = n + 1,

    a = n-th largest     = min over (i, j) of max(A_i, B_j)
    b = (n+1)-th largest = max over (i, j) of min(A_i, B_j)

with A_0 = +inf and -inf past the end: a >= t if and only if no split i + j = n + 1 has both A_i < t and B_j < t, and
likewise for b. Operations whose result nobody reads are dropped. A full sort, pruned in the same way, is tried too,
and the shorter program wins; it needs no branch, so lanes of a SIMD register can run it for as many lists at once.
"""

from __future__ import annotations

from functools import cache

Operation = tuple[str, int, int, int]  # "min" or "max", where the result goes, and the two operands


class _Program:
    """Collects operations in single-assignment form; values 0..m-1 are the inputs."""

    def __init__(self, m: int) -> None:
        self.operations: list[Operation] = []
        self.next = m

    def emit(self, kind: str, x: int, y: int) -> int:
        """Number of a new value."""
        self.operations.append((kind, self.next, x, y))
        self.next += 1
        return self.next - 1

    def fold(self, kind: str, values: list[int]) -> int:
        """All values in one, as a tree: short chains of dependent operations."""
        while len(values) > 1:
            pairs = [values[k : k + 2] for k in range(0, len(values), 2)]
            values = [self.emit(kind, *pair) if len(pair) == 2 else pair[0] for pair in pairs]
        return values[0]

    def sort_descending(self, wires: list[int]) -> list[int]:
        """The wires in order."""
        wires = list(wires)
        for low, high in _comparators(len(wires)):
            x, y = wires[low], wires[high]
            wires[low], wires[high] = self.emit("max", x, y), self.emit("min", x, y)
        return wires

    def pruned(self, outputs: list[int]) -> list[Operation]:
        """Without what the outputs do not need."""
        live = set(outputs)
        kept: list[Operation] = []
        for operation in reversed(self.operations):
            if operation[1] in live:
                live.update(operation[2:])
                kept.append(operation)
        return kept[::-1]


@cache
def order_pair(m: int, n: int) -> tuple[list[Operation], int, int]:
    """The shorter program for 0 < n < m, and which values hold the n-th and the (n+1)-th largest."""
    return min(_from_halves(m, n), _from_full_sort(m, n), key=lambda program: len(program[0]))


def _comparators(count: int) -> list[tuple[int, int]]:
    """(low, high) wires of Batcher's sort, in order."""
    pairs: list[tuple[int, int]] = []
    p = 1
    while p < count:
        k = p
        while k >= 1:
            for j in range(k % p, count - k, 2 * k):
                for i in range(min(k, count - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        pairs.append((i + j, i + j + k))
            k //= 2
        p *= 2
    return pairs


def _from_halves(m: int, n: int) -> tuple[list[Operation], int, int]:
    program = _Program(m)
    half = (m + 1) // 2
    first = program.sort_descending(list(range(half)))
    second = program.sort_descending(list(range(half, m)))
    highs: list[int] = []
    lows: list[int] = []
    for i in range(n + 2):
        j = n + 1 - i
        x = first[i - 1] if 1 <= i <= half else None
        y = second[j - 1] if 1 <= j <= m - half else None
        if x is not None and y is not None:
            highs.append(program.emit("max", x, y))
            lows.append(program.emit("min", x, y))
        elif y is not None:  # the other is +inf (i = 0) or -inf (past its end)
            (lows if i == 0 else highs if i == half + 1 else []).append(y)
        elif x is not None:
            (lows if j == 0 else highs if j == m - half + 1 else []).append(x)
    a, b = program.fold("min", highs), program.fold("max", lows)
    return program.pruned([a, b]), a, b


def _from_full_sort(m: int, n: int) -> tuple[list[Operation], int, int]:
    program = _Program(m)
    wires = program.sort_descending(list(range(m)))
    return program.pruned([wires[n - 1], wires[n]]), wires[n - 1], wires[n]

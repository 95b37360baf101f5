"""What `midpoint-torch` is made of, against what it could be made of: behind its choices, on a CPU.

    python -m bench.torch_choices

`order`: the n-th and (n+1)-th largest of each row by a min-max network, `torch.topk` and `torch.sort`. `round`: a row's
half of a round as it is, and by `torch.compile`, whose first call is a row of its own. `small`: 4-by-4 blocks in closed
form and by rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from bench.rows import RESULTS, commit
from bench.turns import measure
from tmask.comparison.environment import environment
from tmask.files.csv_files import write_csv
from tmask_solvers.torch_kernels.closed import solve_closed
from tmask_solvers.torch_kernels.rounds import iterate, order_statistics

Row = dict[str, Any]
ENTRIES = 1 << 18
SHAPES = ((2, 4), (4, 8), (8, 16), (16, 32))


def _row_half(scores: Tensor, v: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    x = scores - v
    a, b = order_statistics(list(x.unbind(1)), n)
    return 0.5 * a + 0.5 * b, x > b.unsqueeze(1), (a == b).any(0)


def _calls(n: int, m: int, entries: int) -> dict[str, dict[str, Callable[[], object]]]:
    scores = torch.randn(m, m, entries // m**2, generator=torch.Generator().manual_seed(0)).abs()
    blocks, v = scores.permute(2, 0, 1).contiguous(), scores.amin(0)
    calls: dict[str, dict[str, Callable[[], object]]] = {
        "order": {
            "network": lambda: order_statistics(list(scores.unbind(1)), n),
            "topk": lambda: blocks.topk(n + 1, dim=2),
            "sort": lambda: blocks.sort(dim=2),
        }
    }
    if m < 32:
        compiled = torch.compile(_row_half, dynamic=True)
        calls["round"] = {"eager": lambda: _row_half(scores, v, n), "compiled": lambda: compiled(scores, v, n)}
    if m == 4:
        calls["small"] = {"closed form": lambda: solve_closed(scores, n), "rounds": lambda: iterate(scores, n)}
    return calls


def rows_of(n: int, m: int, entries: int, repeats: int, parts: tuple[str, ...]) -> Iterator[Row]:
    """Rows with nanoseconds an entry."""
    for part, calls in _calls(n, m, entries).items():
        if part not in parts:
            continue
        head = {"part": part, "n": n, "m": m}
        for name, call in calls.items():
            # Apart from the rest: the first call of a compiled function is the compiling.
            begin = time.perf_counter()
            call()
            yield head | _row(name, -1, time.perf_counter() - begin, entries)
        for row in measure({name: _silent(call) for name, call in calls.items()}, repeats):
            yield head | _row(row["solver"], row["repeat"], row["seconds"], entries)


def _silent(call: Callable[[], object]) -> Callable[[], Row]:
    def timed() -> Row:
        call()
        return {}

    return timed


def _row(what: str, repeat: int, seconds: float, entries: int) -> Row:
    return {"what": what, "repeat": repeat, "seconds": seconds, "ns_per_entry": 1e9 * seconds / entries}


def main() -> None:
    """Measure all, on one thread, and write the CSV."""
    torch.set_num_threads(1)
    machine = {"commit": commit(), "threads": 1} | environment()
    rows = [row | machine for n, m in SHAPES for row in rows_of(n, m, ENTRIES, 7, parts=("order", "round", "small"))]
    write_csv(RESULTS / "torch_choices.csv", rows, overwrite=True)
    for row in rows:
        print(f"{row['part']} {row['n']}:{row['m']} {row['what']}, {row['repeat']}: {row['ns_per_entry']:.3g} ns")


if __name__ == "__main__":
    main()

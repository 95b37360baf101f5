"""How many blocks `ortools-flow` should put into one graph, by block side: behind its default.

python -m bench.flow_batch
"""

from __future__ import annotations

from dataclasses import asdict

from bench.cases import CASES
from bench.report import table
from bench.rows import RESULTS, commit
from tmask.blocks.pattern import Pattern
from tmask.comparison.environment import environment
from tmask.comparison.runs import compare
from tmask.files.csv_files import write_csv
from tmask.solving.registry import get_solver

SIZES = (1, 8, 32, 128, 512)
PATTERNS = ("2:4", "3:6", "4:8", "6:12", "8:16", "16:32")


def main() -> None:
    """Measure, write the CSV, print the table."""
    normal = next(case for case in CASES if case.name == "normal")
    solvers = [get_solver("ortools-flow", blocks_per_graph=size) for size in SIZES]
    rows = []
    for text in PATTERNS:
        pattern = Pattern.parse(text)
        # `compare` takes the sizes in turn, so that a slow moment of the machine hits all.
        runs = compare(normal.blocks(pattern, 2048), pattern, solvers, case="normal", repeats=5, seconds_per_solver=2.0)
        rows += [asdict(run) | {"commit": commit(), "threads": 1} | environment() for run in runs]
    write_csv(RESULTS / "ortools_flow_batch.csv", rows, overwrite=True)
    print(table([row | {"solver": row["settings"]} for row in rows], "normal"))


if __name__ == "__main__":
    main()

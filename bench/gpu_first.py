"""The first masks of a process on a CUDA device: seconds with an empty cache of kernels, and with one that is filled.

    python -m bench.gpu_first [--pattern 4:8]

Each time a process of its own imports torch, makes a weight on the device, and then imports tmask and solves: `seconds`
is what comes after the weight is there. The first process compiles, the others read what it has left on disk, in a
folder of its own. Rows go to bench/results/gpu_first.csv. Without a CUDA device nothing is measured, and the exit code
is 3; `--dry-run` goes the same way on the CPU, with another solver, and writes nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.rows import RESULTS, commit
from tmask.comparison.environment import environment
from tmask.files.atomic import check_output
from tmask.files.csv_files import write_csv

NO_DEVICE = 3
_CODE = """
import json, sys, time, torch
device, pattern, solver = sys.argv[1:]
weight = torch.randn(1024, 1024, device=device)
float(weight[0, 0])
begin = time.perf_counter()
import tmask
imported = time.perf_counter()
objective = tmask.solve(weight, pattern, solver).objective
solved = time.perf_counter()
tmask.solve(weight, pattern, solver)
print(json.dumps({
    "seconds": solved - begin, "import_seconds": imported - begin, "again_seconds": time.perf_counter() - solved,
    "numba": "numba" in sys.modules,
}))
"""


def measure(device: str, pattern: str, solver: str, times: int) -> Iterator[dict[str, Any]]:
    """A row for each process; the first one finds no kernels."""
    with tempfile.TemporaryDirectory() as folder:
        for run in range(times):
            command = (sys.executable, "-c", _CODE, device, pattern, solver)
            environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
            # What goes wrong is said where this is run: its own words, and not the number of its exit alone.
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
            kernels = "kept" if run else "compiled"
            yield {"pattern": pattern, "solver": solver, "kernels": kernels, "run": run} | json.loads(output)


def main(
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = RESULTS / "gpu_first.csv",
    pattern: Annotated[str, typer.Option(help="N:M.")] = "4:8",
    times: Annotated[int, typer.Option(help="Processes, one after the other.")] = 3,
    dry_run: Annotated[bool, typer.Option(help="Only see whether it works, on the CPU.")] = False,
) -> None:
    """Measure, and print a line for each process."""
    if not dry_run and not torch.cuda.is_available():
        print("there is no CUDA device here: nothing was measured", file=sys.stderr)
        raise typer.Exit(NO_DEVICE)
    check_output(out, overwrite=True)
    device, solver, name = ("cpu", "midpoint-torch", "") if dry_run else ("cuda", "midpoint-cuda", _device_name())
    machine = {"device": name, "commit": commit()} | environment()
    rows: list[dict[str, Any]] = []
    for row in measure(device, pattern, solver, 1 if dry_run else times):
        print(
            f"kernels {row['kernels']}: {row['seconds']:.3f} s, the same again {row['again_seconds']:.4f} s", flush=True
        )
        rows.append(row | machine)
        if not dry_run:
            write_csv(out, rows, overwrite=True)
    if dry_run:
        print("a dry run: nothing was measured", file=sys.stderr)


def _device_name() -> str:
    return torch.cuda.get_device_name()


if __name__ == "__main__":
    typer.run(main)

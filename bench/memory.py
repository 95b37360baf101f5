"""The most memory that each command takes, by the size of the weight file: rows into memory.csv, and a page from them.

python -m bench.memory [--layers 10,40] [--side 2048]     (measure, then write the page)
python -m bench.memory --report                           (the page alone)

Each command runs in a process of its own on a file of square float32 layers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from safetensors.numpy import save_file

from bench import markdown
from bench.rows import RESULTS, commit, read_rows
from tmask.comparison.environment import environment
from tmask.files.csv_files import write_csv

OUT = RESULTS / "memory.csv"
PATTERN = "4:8"
COMMANDS: dict[str, tuple[str, ...]] = {
    "solve": ("solve", "{file}", "-p", PATTERN, "-o", "{masks}"),
    "check": ("check", "{masks}", "{file}"),
    "solve --masked-weights": ("solve", "{file}", "-p", PATTERN, "-o", "{other}", "--masked-weights", "{masked}"),
    "compare": ("compare", "{file}", "-p", PATTERN, "-s", "midpoint,greedy-keep", "--repeats", "1"),
    "allocate": ("allocate", "{file}", "-d", "0.5", "-p", "2:8,4:8"),
    "diversity": ("diversity", "{file}", "-p", PATTERN),
}
_MIB = 2**20
ROOT = Path(__file__).parent.parent
# A command in a process that says at its end what it held at most.
_COMMAND = """
import runpy, sys
from bench.processes import host_peak
try:
    runpy.run_module("tmask", run_name="__main__")
finally:
    print(host_peak(), file=sys.stderr)
"""

TEXT = """\
# Memory of the commands

Peak by file size: layers of {side} x {side} float32, {pattern}. `beyond`: what goes beyond the same command's peak on
one 8 x 8 layer (Python, numpy, numba and compiled kernels), in sizes of one layer. Seconds hold imports, and kernels
that are loaded.

{table}

`{name}`: commit {commit}, {cpu}, threads: {threads}, {date}.
"""


def measure(layers: int, side: int, folder: Path) -> list[dict[str, Any]]:
    """A row for each command on one file."""
    file = folder / f"{layers}x{side}.safetensors"
    rng = np.random.default_rng(0)
    save_file({f"layers.{i}.weight": rng.standard_normal((side, side), dtype=np.float32) for i in range(layers)}, file)
    names = {key: str(folder / f"{layers}x{side}.{key}.safetensors") for key in ("masks", "other", "masked")}
    rows = []
    for name, arguments in COMMANDS.items():
        command = [argument.format(file=file, **names) for argument in arguments]
        seconds, peak = run_command(command)
        size = file.stat().st_size / _MIB
        rows.append(
            {"command": name, "layers": layers, "side": side, "file_mib": size, "peak_mib": peak, "seconds": seconds}
        )
        print(f"{name}, {layers} of {side} x {side}: {peak:.0f} MiB, {seconds:.1f} s", flush=True)
    for path in folder.iterdir():
        path.unlink()
    return rows


def run_command(arguments: list[str]) -> tuple[float, float]:
    """Wall-clock seconds of a command, and the peak of its process in MiB.

    Raises:
        CalledProcessError: it fails.
    """
    begin = time.perf_counter()
    command = [sys.executable, "-c", _COMMAND, *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - begin, float(done.stderr.split()[-1])


def page(rows: list[dict[str, Any]], name: str) -> str:
    """From rows of the CSV alone."""
    least = {row["command"]: float(row["peak_mib"]) for row in rows if row["layers"] == "1"}
    measured = [row for row in rows if row["layers"] != "1"]
    body = [
        (
            row["command"],
            row["layers"],
            f"{float(row['file_mib']):.0f}",
            f"{float(row['peak_mib']):.0f}",
            f"{(float(row['peak_mib']) - least[row['command']]) / (int(row['side']) ** 2 * 4 / _MIB):.1f}",
            f"{float(row['seconds']):.1f}",
        )
        for command in COMMANDS
        for row in measured
        if row["command"] == command
    ]
    header = ("command", "layers", "file MiB", "peak MiB", "beyond / layer", "seconds")
    return TEXT.format(
        side=measured[0]["side"],
        pattern=PATTERN,
        table=markdown.table(header, body),
        name=name,
        **{column: measured[0][column] for column in ("commit", "cpu", "threads")},
        date=measured[0]["date"][:10],
    )


def main(
    layers: Annotated[str, typer.Option(help="Numbers of layers, separated by commas.")] = "10,40",
    side: Annotated[int, typer.Option(help="Of each layer.")] = 2048,
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = OUT,
    report: Annotated[bool, typer.Option("--report", help="Only the page, from the CSV.")] = False,
) -> None:
    """Measure, and write the page beside the CSV."""
    if not report:
        machine = {"commit": commit(), "threads": os.environ["OMP_NUM_THREADS"]} | environment()
        with tempfile.TemporaryDirectory(prefix="bench-memory-") as name:
            found = [
                *measure(1, 8, Path(name)),
                *(row for count in map(int, layers.split(",")) for row in measure(count, side, Path(name))),
            ]
        write_csv(out, [row | machine for row in found], overwrite=True)
    print(markdown.write_page(out, page(read_rows(out), out.name)))


if __name__ == "__main__":
    typer.run(main)

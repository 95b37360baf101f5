"""What renewing masks costs in training: steps that renew them every time, in turn with steps that never do.

    python -m bench.training.renewals [--task vision] [--images FILE] [--text FILE] [--scale full --device cuda]

On a CPU it counts the process's own CPU seconds, which other work on the machine hardly changes: by the wall clock a
long step would be interrupted more often than a short renewal, and renewals would look cheaper than they are. On a GPU
it takes the wall clock, synchronised.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.rows import RESULTS, commit
from bench.training.data import Batch, Data
from bench.training.loop import build, loss_of, optimizer_for
from bench.training.masks import put_masks
from bench.training.run import Device, Images, Scale, Task, Text, check_options, load, machine_columns
from bench.training.settings import MAIN, SCALES, Setting, Size
from tmask.files.atomic import check_output
from tmask.files.csv_files import write_csv

_WARM_UP = 3
# More steps than any run has.
_NEVER = 1 << 30


@dataclass(frozen=True, slots=True)
class Cost:
    """Medians over steps, and what follows from them.

    Args:
        clock: "CPU" or "wall".
        step_seconds: forward, backward and update, masks in force.
        renewing_seconds: the same with a renewal.
    """

    clock: str
    step_seconds: float
    renewing_seconds: float
    repeats: int

    @property
    def renewal_seconds(self) -> float:
        """Of the renewal alone."""
        return self.renewing_seconds - self.step_seconds

    def share(self, every: int) -> float:
        """Of the time of training that renewals take, if they come every so many steps."""
        return self.renewal_seconds / (self.renewal_seconds + every * self.step_seconds)


def measure(size: Size, data: Data, setting: Setting, device: torch.device, repeats: int) -> Cost:
    """Train two copies of the network in turn, on the same batches; one renews its masks at every step."""
    cuda = device.type == "cuda"
    steps = [_stepper(size, data, setting, device, every) for every in (_NEVER, 1)]
    seconds: tuple[list[float], list[float]] = ([], [])
    clock = time.perf_counter if cuda else time.process_time
    # Both copies see a batch before the next comes, so that a slow moment hits both.
    for batch in data.batches(0, size.batch, _WARM_UP + repeats):
        for step, taken in zip(steps, seconds, strict=True):
            begin = clock()
            step(batch)
            if cuda:
                torch.cuda.synchronize(device)
            taken.append(clock() - begin)
    never, always = (statistics.median(taken[_WARM_UP:]) for taken in seconds)
    return Cost("wall" if cuda else "CPU", never, always, repeats)


def _stepper(size: Size, data: Data, setting: Setting, device: torch.device, every: int) -> Callable[[Batch], None]:
    model = build(size, data, 0).to(device).train()
    optimizer, decay = optimizer_for(model, size)
    put_masks(model, setting, optimizer, decay, every, _NEVER, lambda renewal: None)

    def step(batch: Batch) -> None:
        inputs, targets = batch
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(model(inputs.to(device)), targets.to(device)))
        optimizer.step()

    return step


def rows_of(task: str, scale: str, data: Data, device: torch.device, repeats: int) -> Iterator[dict[str, Any]]:
    """One row for every setting that renews masks."""
    machine = machine_columns(commit(), device)
    for setting in MAIN:
        if setting.masks == "none" or setting.pretrained or setting.levers:
            continue
        cost = measure(SCALES[scale][task], data, setting, device, repeats)
        run_columns = {"task": task, "scale": scale, "data": data.name, "setting": setting.name}
        figures = {
            "renewal_seconds": cost.renewal_seconds,
            "share_every_40": cost.share(40),
            "share_every_1": cost.share(1),
        }
        yield run_columns | asdict(cost) | figures | machine


def main(
    task: Task = "",
    images: Images = None,
    text: Text = None,
    repeats: Annotated[int, typer.Option(min=1, help="Steps of each kind.")] = 25,
    scale: Scale = "small",
    device: Device = "cpu",
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = RESULTS / "training_renewals.csv",
) -> None:
    """Measure what renewals cost."""
    tasks = check_options(task, scale, device)
    check_output(out, overwrite=True)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    rows: list[dict[str, Any]] = []
    for name in tasks:
        data = load(name, scale, images, text)
        for row in rows_of(name, scale, data, torch.device(device), repeats):
            rows.append(row)
            print(f"{name} {row['setting']}: {100 * row['share_every_1']:.2g} % at every step", flush=True)
    write_csv(out, rows, overwrite=True)
    print(f"{len(rows)} rows in {out}")


if __name__ == "__main__":
    typer.run(main)

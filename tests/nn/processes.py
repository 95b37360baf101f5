"""Several processes on this machine that train together."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed as dist
from torch import multiprocessing

Work = Callable[[int, int, Path], None]


def run(work: Work, world: int, folder: Path) -> None:
    """Call work(rank, world, folder) in as many processes; an error in any of them is raised here.

    They meet at a file, for which no port can be taken already.
    """
    multiprocessing.spawn(_enter, (work, world, folder), nprocs=world)


def _enter(rank: int, work: Work, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(minutes=2),
    )
    work(rank, world, folder)
    dist.destroy_process_group()

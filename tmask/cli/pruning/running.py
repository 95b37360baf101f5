"""A run of `tmask prune` as it is seen: a bar of blocks, and what an early end leaves behind."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from tmask.cli.console import note, progress_bar


class ShownRun:
    """Shows the blocks that are done; where a run ends early, adds to the error what it leaves behind."""

    def __init__(self, output: Path) -> None:
        self.partial = output.with_name(f"{output.name}.partial")
        self.done, self.count = 0, 0
        text = TextColumn("{task.description}", markup=False)
        self.bar = progress_bar(text, BarColumn(), MofNCompleteColumn(), TextColumn("blocks"), TimeRemainingColumn())

    def __enter__(self) -> Self:
        if self.partial.exists():
            note(f"{self.partial} is there from an earlier run")
        self.bar.start()
        self.task = self.bar.add_task("reading the text through the model", total=None)
        return self

    def tell(self, done: int, count: int, name: str) -> None:
        """Blocks done, their number, and the next."""
        self.done, self.count = done, count
        self.bar.update(self.task, description=name, completed=done, total=count)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.bar.stop()
        # Before the first block an error speaks for itself, and the folder may be another run's.
        if error is None or not (self.count or isinstance(error, KeyboardInterrupt)) or not self.partial.exists():
            return
        error.add_note(
            f"{self.done} of {self.count or '?'} blocks are finished and kept in {self.partial}; the same command goes "
            "on from there"
        )

"""Reads the rows of the benchmark into what tables and plots ask for."""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from bench.rows import read_rows
from bench.training.settings import SETTINGS, TASKS, Setting
from tmask.errors import FileFormatError

Row = dict[str, str]
Curve = dict[int, list[float]]  # values of all seeds, by step


@dataclass(frozen=True, slots=True)
class TaskResults:
    """All rows of one task.

    Args:
        rows: by setting and seed, each by step.
    """

    task: str
    rows: dict[str, dict[int, list[Row]]]

    @property
    def settings(self) -> list[Setting]:
        """Those with rows, in the order of `SETTINGS`."""
        return [setting for setting in SETTINGS if setting.name in self.rows]

    @property
    def example(self) -> Row:
        """One row, for the columns that are the same in all of a task."""
        return next(iter(next(iter(self.rows.values())).values()))[-1]

    def final(self, setting: Setting | str, column: str) -> dict[int, float]:
        """A figure at the end of training, by seed."""
        name = setting if isinstance(setting, str) else setting.name
        return {seed: float(rows[-1][column]) for seed, rows in self.rows.get(name, {}).items()}

    def at_rate(self, setting: Setting, factor: float) -> dict[int, float]:
        """Test losses of a setting at another learning rate, by seed."""
        return self.final(dataclasses.replace(setting, rate=factor), "test_loss")

    def curve(self, setting: Setting, column: str) -> Curve:
        """A figure over the steps at which it was taken."""
        found: Curve = defaultdict(list)
        for rows in self.rows.get(setting.name, {}).values():
            for row in rows:
                if row[column]:
                    found[int(row["step"])].append(float(row[column]))
        return dict(found)

    def mean(self, setting: Setting, column: str) -> float | None:
        """Over all seeds and steps."""
        values = [value for values in self.curve(setting, column).values() for value in values]
        return statistics.fmean(values) if values else None


def read_results(csv: Path) -> list[TaskResults]:
    """The tasks that a CSV has rows of.

    Raises:
        FileFormatError: it has none, or other columns.
    """
    grouped: dict[str, dict[str, dict[int, list[Row]]]] = {}
    try:
        for row in read_rows(csv):
            by_seed = grouped.setdefault(row["task"], {}).setdefault(row["setting"], {})
            by_seed.setdefault(int(row["seed"]), []).append(row)
    except (KeyError, ValueError) as error:
        raise FileFormatError(f"{csv}: not rows of bench.training.run ({error!r})") from error
    if not grouped:
        raise FileFormatError(f"{csv} has no rows; run `python -m bench.training.run` first")
    return [TaskResults(task, grouped[task]) for task in TASKS if task in grouped]

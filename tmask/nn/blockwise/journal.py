"""The journal of an output that is not complete: which job it is of, and a line for each block that is done."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tmask.files.atomic import atomic_path
from tmask.nn.blockwise.memory.masks import PackedMasks
from tmask.nn.blockwise.pruning import BlockPruning, MatrixPruning


class Journal:
    """A file of JSON lines, with the masks of each block in a file beside.

    Args:
        folder: where it stands.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "progress.jsonl"

    def begin(self, job: Mapping[str, Any]) -> None:
        """A new one."""
        self._rewrite([json.dumps({"job": _digest(job)})])

    def is_of(self, job: Mapping[str, Any]) -> bool:
        """Whether it was begun for this job."""
        first, *_ = self.path.read_text(encoding="utf-8").splitlines()
        return bool(json.loads(first)["job"] == _digest(job))

    def mend(self) -> None:
        """Drop a line that was cut off."""
        lines = self.path.read_text(encoding="utf-8").splitlines()
        self._rewrite([lines[0], *(line for line in lines[1:] if _is_whole(line))])

    def read(self) -> dict[int, BlockPruning]:
        """The blocks that are done."""
        _, *whole = self.path.read_text(encoding="utf-8").splitlines()
        done = {}
        for line in whole:
            known = json.loads(line)
            rows = [MatrixPruning(**{**row, "shape": tuple(row["shape"])}) for row in known["rows"]]
            masks = PackedMasks.load(self._masks_of(known["block"]))
            done[known["block"]] = BlockPruning(rows, masks, known["skipped"])
        return done

    def add(self, index: int, done: BlockPruning) -> None:
        """A block whose weights are on the disk."""
        PackedMasks(done.masks).save(self._masks_of(index))
        line = {"block": index, "rows": [dataclasses.asdict(row) for row in done.rows], "skipped": done.skipped}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """It and its masks, once the output is complete."""
        self.path.unlink()
        for file in self.path.parent.glob("masks-*.npz"):
            file.unlink()

    def _rewrite(self, lines: list[str]) -> None:
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def _masks_of(self, index: int) -> Path:
        return self.path.parent / f"masks-{index:05}.npz"


def _digest(job: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(job), sort_keys=True).encode()).hexdigest()


def _is_whole(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except json.JSONDecodeError:
        return False

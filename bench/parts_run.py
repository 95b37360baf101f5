"""Commands run one after the other, each within its own limit and with its own log, whatever becomes of the others."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import markdown

_GRACE = 5.0  # seconds from the interrupt, at which pytest and the benchmarks still say what they have, to the end


@dataclass(frozen=True, slots=True)
class Part:
    """A command with a name and a limit in seconds, its grace included; left out where `needs` is no program here."""

    name: str
    command: tuple[str, ...]
    limit: float
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a part: in words, whether that is no failure, seconds, and where its output is."""

    name: str
    words: str
    good: bool
    seconds: float
    log: Path | None


def run_parts(parts: Sequence[Part], folder: Path, environment: Mapping[str, str], cwd: Path) -> Iterator[Outcome]:
    """Run each part, its output going to NAME.log as it is written; the table so far is always in table.md."""
    outcomes: list[Outcome] = []
    for part in parts:
        outcome = _run(part, folder / f"{part.name}.log", environment, cwd)
        outcomes.append(outcome)
        (folder / "table.md").write_text(table(outcomes) + "\n")
        yield outcome


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: a line for each part."""
    lines = [[outcome.name, outcome.words, f"{outcome.seconds:.0f}", str(outcome.log or "")] for outcome in outcomes]
    return markdown.table(["part", "outcome", "seconds", "log"], lines)


def _run(part: Part, log: Path, environment: Mapping[str, str], cwd: Path) -> Outcome:
    """One part, to its end or its limit."""
    if part.needs and shutil.which(part.needs) is None:
        return Outcome(part.name, f"left out: no {part.needs} here", True, 0.0, None)
    begin = time.monotonic()
    with log.open("w") as output:
        try:
            # In a session of its own, so that what the part has started ends with it.
            process = subprocess.Popen(
                part.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as error:
            return Outcome(part.name, f"cannot start: {error}", False, 0.0, None)
        try:
            code = process.wait(max(part.limit - _GRACE, 0.1))
            words = "passed" if code == 0 else f"failed, exit code {code}"
        except subprocess.TimeoutExpired:
            code, words = -1, f"cut off at {part.limit:g} s"
        finally:
            _end(process)
    return Outcome(part.name, words, code == 0, time.monotonic() - begin, log)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the session of a process, first by an interrupt."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
    with contextlib.suppress(ProcessLookupError):  # where nothing of it is left
        os.killpg(process.pid, signal.SIGKILL)
    # One that waits in a driver is not even ended by this, and must not hold up the others.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)

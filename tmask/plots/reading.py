"""Read one case of a comparison's CSV: the columns of `comparison.COLUMNS`, and of `environment`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from tmask.comparison.runs import COLUMNS, Run
from tmask.errors import FileFormatError

if TYPE_CHECKING:
    import pandas as pd

_PREFERRED_CASE = "normal"
_FOOTER = ("date", "cpu", "tmask")  # drawn, so asked for; other columns of the environment may be absent

_JUDGED = "judged"  # which files of version 0.1 lack


@dataclass(frozen=True, slots=True)
class CaseRuns:
    """All runs of one case, failed ones too, and where they were made: date, cpu and version as texts."""

    case: str
    runs: list[Run]
    made: dict[str, str]


def read_case(path: Path) -> CaseRuns:
    """The case "normal", or else the first.

    Raises:
        FileFormatError: the file is missing, is no CSV, lacks columns, or has no usable rows.
    """
    frame = _read_frame(path)
    cases = list(frame["case"].unique())
    case = _PREFERRED_CASE if _PREFERRED_CASE in cases else cases[0]
    frame = frame[frame["case"] == case]
    runs = [Run(**row) for row in frame[list(COLUMNS)].to_dict("records")]
    _check(path, case, runs)
    return CaseRuns(case, runs, _made(frame))


def _read_frame(path: Path) -> pd.DataFrame:
    import pandas as pd

    floats = [field.name for field in fields(Run) if field.type == "float"]
    types = {field.name: str(field.type) for field in fields(Run)} | dict.fromkeys(_FOOTER, "str")
    try:
        # Only numbers may be absent: a solver or case named "NA" is a name.
        missing = {name: ["", "nan", "NaN"] for name in floats}
        frame = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=missing)
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{path} is not a CSV of results, nor any text; `tmask compare --csv FILE` writes one"
        ) from error
    except ValueError as error:  # as pandas's own errors are
        raise FileFormatError(f"{path} is not a CSV of results: {error}") from error
    if _JUDGED not in frame.columns:
        frame[_JUDGED] = 0
    if absent := [column for column in (*COLUMNS, *_FOOTER) if column not in frame.columns]:
        raise FileFormatError(f"{path} lacks the columns {', '.join(absent)}")
    if frame.empty:
        raise FileFormatError(f"{path} has no rows")
    return frame


def _check(path: Path, case: str, runs: list[Run]) -> None:
    """Numbers that cannot be drawn would vanish from the figures without a word."""
    for run in runs:
        if not run.failure and not (run.blocks > 0 and 0 < run.seconds < math.inf and math.isfinite(run.gap_mean)):
            raise FileFormatError(
                f"{path}: {run.solver} on {run.n}:{run.m}, repeat {run.repeat}: blocks {run.blocks}, seconds "
                f"{run.seconds}, gap_mean {run.gap_mean}, without a failure"
            )
    if all(run.failure for run in runs):
        raise FileFormatError(f"{path}: every run of case {case!r} failed; the first: {runs[0].failure}")


def _made(frame: pd.DataFrame) -> dict[str, str]:
    made = {column: ", ".join(filter(None, frame[column].unique())) or "unknown" for column in _FOOTER}
    days = sorted({date[:10] for date in frame["date"]} - {""})
    if days:
        made["date"] = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return made

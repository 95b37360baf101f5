"""A pruned language model as rows, for tables and JSON; and patterns by layer read back from `tmask allocate`."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tmask.blocks.pattern import Pattern
from tmask.cli.output import Row
from tmask.errors import FileFormatError, InvalidProblemError
from tmask.showing.numbers import number, percent

if TYPE_CHECKING:
    from tmask.nn.blockwise.blockwise_report import BlockwiseReport
    from tmask.nn.blockwise.pruning import MatrixPruning


def kind(name: str) -> str:
    """The name of a weight in any block: "model.layers.3.mlp.down_proj.weight" is an "mlp.down_proj"."""
    in_any = re.sub(r"(?<=[.\[])\d+(?=[.\]])", "*", name)
    return in_any.partition("*.")[2].removesuffix(".weight") if "*." in in_any else in_any.removesuffix(".weight")


def kinds(rows: Sequence[MatrixPruning]) -> list[dict[str, Any]]:
    """Numbers for each kind of layer, and for all of them."""
    by_kind: dict[str, list[MatrixPruning]] = {}
    for row in rows:
        by_kind.setdefault(kind(row.name), []).append(row)
    return [_numbers(name, group) for name, group in by_kind.items()] + [_numbers("all", rows)]


def _numbers(name: str, rows: Sequence[MatrixPruning]) -> dict[str, Any]:
    sizes = [row.shape[0] * row.shape[1] for row in rows]
    gaps = [row.optimality_gap for row in rows if row.optimality_gap is not None]
    errors = [row.error for row in rows if not math.isnan(row.error)]
    return {
        "layers": name,
        "count": len(rows),
        "weights": sum(sizes),
        "density": sum(row.density * size for row, size in zip(rows, sizes, strict=True)) / sum(sizes),
        "retained": sum(row.retained for row in rows) / len(rows),
        "optimality_gap": max(gaps) if len(gaps) == len(rows) else None,
        "error": sum(errors) / len(errors) if errors else math.nan,
        "worst_error": max(errors, default=math.nan),
        "seconds": sum(row.seconds for row in rows),
    }


def kind_rows(rows: Sequence[MatrixPruning]) -> list[Row]:
    """The same in words."""
    return [
        {
            "layers": row["layers"],
            "count": str(row["count"]),
            "weights": f"{row['weights']:,}",
            "density": percent(row["density"]),
            "retained": percent(row["retained"]),
            "largest gap": percent(row["optimality_gap"], 4),
            "mean error": percent(row["error"]),
            "largest error": percent(row["worst_error"]),
            "seconds": number(row["seconds"]),
        }
        for row in kinds(rows)
    ]


def skipped_rows(skipped: Mapping[str, str]) -> list[Row]:
    """Weights that stay dense, by reason and kind."""
    reasons: dict[str, Counter[str]] = {}
    for name, reason in skipped.items():
        reasons.setdefault(reason, Counter())[kind(name)] += 1
    return [
        {
            "because": reason,
            "weights": ", ".join(f"{name} ({count})" if count > 1 else name for name, count in names.items()),
        }
        for reason, names in reasons.items()
    ]


def document(output: Path, report: BlockwiseReport, unused: Sequence[str]) -> dict[str, Any]:
    """All of it, for JSON."""
    return {
        "output": str(output),
        "notes": str(output / "tmask"),
        "seconds": report.seconds,
        "mean_error": report.error,
        "kinds": kinds(report.rows),
        "matrices": [asdict(row) for row in report.rows],
        "skipped": dict(report.skipped),
        "unused_patterns": list(unused),
    }


def read_patterns(path: Path) -> dict[str, Pattern]:
    """Patterns by the names of weights, from what `tmask allocate` wrote with --json or --csv.

    Raises:
        FileFormatError: neither of these.
    """
    try:
        text = path.read_text(encoding="utf-8")
        rows = json.loads(text)["layers"] if text.lstrip().startswith("{") else [*csv.DictReader(text.splitlines())]
        found = {str(row["layer"]): Pattern.parse(row["pattern"]) for row in rows}
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, InvalidProblemError) as error:
        raise FileFormatError(
            f"{path} is not what `tmask allocate` writes with --json or --csv, a layer and its pattern in each row: "
            f"{error!r}"
        ) from error
    if not found:
        raise FileFormatError(f"{path} holds no patterns")
    return found

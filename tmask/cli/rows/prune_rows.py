"""A pruned language model as rows, for tables and JSON; and patterns by layer read back from `tmask allocate`."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tmask.blocks.pattern import Pattern
from tmask.cli.output import Row
from tmask.errors import FileFormatError, InvalidProblemError
from tmask.plots.matrix_names import kind
from tmask.showing.numbers import number, percent

if TYPE_CHECKING:
    from tmask.nn.blockwise.blockwise_report import BlockwiseReport
    from tmask.nn.blockwise.pruning import MatrixPruning


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


def block_rows(report: BlockwiseReport) -> list[Row]:
    """What is left of the dense model's hidden states behind each block; empty where that is not known."""
    return [
        {"behind": block.name, "error of hidden states": percent(block.error)}
        for block in report.blocks
        if block.error is not None
    ]


def losses_and_sizes(rows: Sequence[MatrixPruning]) -> tuple[dict[str, float], dict[str, int]]:
    """Errors and numbers of weights by parameter; of a stack, the sums of its matrices."""
    losses: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for row in rows:
        name = row.name.partition("[")[0]
        losses[name] = losses.get(name, 0.0) + row.error
        sizes[name] = sizes.get(name, 0) + row.shape[0] * row.shape[1]
    return losses, sizes


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
        "blocks": [asdict(block) for block in report.blocks],
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

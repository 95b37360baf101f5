"""The tables of bench.gpu_training, from its rows alone.

python -m bench.gpu_training_report CSV [CSV ...]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bench import markdown
from bench.rows import read_rows

Row = dict[str, Any]

_BACKENDS = ("dense", "masked", "semi_structured")
_WAYS = {"step_seconds": "eager", "graph_step_seconds": "passes in a graph"}


def report(rows: list[Row]) -> str:
    """Markdown: training steps of a GPT block, linear layers, packing and renewals; what was not run is left out."""
    tables = (_steps(rows), _auto(rows), _layers(rows), _packing(rows))
    return "\n\n".join(table for table in tables if table) + "\n"


def _steps(rows: list[Row]) -> str:
    lines = []
    for key in _sizes(rows, "block"):
        for quantity, way in _WAYS.items():
            found = {backend: _value(rows, "block", key, quantity, backend) for backend in _BACKENDS}
            if found["dense"] is not None:
                lines.append([_size(key), way, *(_milliseconds(found[b], found["dense"]) for b in _BACKENDS)])
    return _table(
        "A training step of a GPT block, ms (times as fast as dense)", ["width, tokens", "", *_BACKENDS], lines
    )


def _auto(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        if not row["quantity"].endswith("step_over_dense") or not row["value"]:
            continue
        compiled = row["part"] == "compiled"
        key = _key(row)
        ends = [_value(rows, row["part"], key, f"{row['quantity']}_{end}", row["backend"]) for end in ("least", "most")]
        spread = f" ({1 / ends[1]:.2f} to {1 / ends[0]:.2f})" if ends[0] and ends[1] else ""
        way = f"torch.compile, {row['quantity'].removesuffix('_step_over_dense')}" if compiled else "passes in a graph"
        lines.append([_size(key), way, row["backend"], row["route"], f"{1 / float(row['value']):.2f}{spread}"])
    return _table(
        "Steps as many times as fast as dense ones in the same mode (round by round)",
        ["width, tokens", "", "backend", "packed layers", "times"],
        lines,
    )


def _layers(rows: list[Row]) -> str:
    lines = []
    for key in _sizes(rows, "linear"):
        names = ("graph_dense_seconds", "graph_masked_seconds", "graph_sparse_seconds")
        dense, masked, packed = (_value(rows, "linear", key, name) for name in names)
        if dense is not None:
            cells = _milliseconds(dense, None), _milliseconds(masked, dense), _milliseconds(packed, dense)
            lines.append([key[0], f"{key[1]} x {key[2]}", key[3], *cells])
    return _table(
        "Forward and backward of one layer in a graph, packing included, ms (times as fast as dense)",
        ["dtype", "weight", "tokens", "dense", "masked", "packed"],
        lines,
    )


def _packing(rows: list[Row]) -> str:
    wanted = {
        ("packing", "pack_seconds"): "packing, each step",
        ("packing", "plan_seconds"): "what it needs of a mask, each renewal",
        ("renewal", "certified_seconds"): "a mask, proven",
        ("block", "renewal_seconds"): "a renewal of the block's four layers",
    }
    lines = []
    for row in rows:
        what = wanted.get((row["part"], row["quantity"]))
        if what and row["value"]:
            size = f"{row['out_features']} x {row['in_features']}"
            lines.append([what, row["dtype"], size, row["backend"], f"{1e3 * float(row['value']):.3g}"])
    return _table("Beside the products, ms", ["what", "dtype", "weight or width", "backend or solver", "ms"], lines)


def _key(row: Row) -> tuple[str, str, str, str]:
    return row["dtype"], row["out_features"], row["in_features"], row["tokens"]


def _sizes(rows: list[Row], part: str) -> list[tuple[str, str, str, str]]:
    return list(dict.fromkeys(_key(row) for row in rows if row["part"] == part and not row["failure"]))


def _size(key: tuple[str, str, str, str]) -> str:
    return f"{key[1]}, {key[3]}"


def _value(rows: list[Row], part: str, key: tuple[str, ...], quantity: str, backend: str | None = None) -> float | None:
    for row in rows:
        same = (row["part"], _key(row), row["quantity"]) == (part, key, quantity)
        if same and row["value"] and backend in (None, row["backend"]):
            return float(row["value"])
    return None


def _milliseconds(seconds: float | None, dense: float | None) -> str:
    if seconds is None:
        return ""
    text = f"{1e3 * seconds:.3g}"
    return text if dense is None or seconds is dense else f"{text} ({dense / seconds:.2f})"


def _table(title: str, head: list[str], lines: list[list[str]]) -> str:
    return f"### {title}\n\n{markdown.table(head, lines)}" if lines else ""


def main(
    files: Annotated[list[Path], typer.Argument(help="CSV files of bench.gpu_training; tables go beside the first.")],
) -> None:
    """Print the tables of all files together, and write them beside the first one."""
    text = report([row for file in files for row in read_rows(file)])
    print(text)
    markdown.write_page(files[0], text)


if __name__ == "__main__":
    typer.run(main)

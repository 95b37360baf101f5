"""A table of accuracies from the rows of `bench.adaprune` alone.

python -m bench.adaprune_report [CSV]
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import markdown
from bench.adaprune import STAGES
from bench.rows import RESULTS, read_rows
from tmask.errors import FileFormatError

Rows = list[dict[str, Any]]

TEXT = """\
# Pruning ResNet-20 on CIFAR-10

Top-1 on 5000 test images in per cent: mean over seeds of the 1000 calibration images, with range and number where there
is more than one seed. Empty where nothing was run. Drawn from `{name}`: commits {commits};
{cpu}, threads: {threads}, {date}.

- Every pruning starts from the model as it was trained, with its own running statistics.
- `one-shot`: the mask alone, under those statistics; every later stage of a pruned model has new ones from the
  calibration images. The dense model is `one-shot` with its own, `batch-norm` with new ones, `sequential` with new
  ones and all weights refitted under them, layer after layer.
- `independent`, `sequential`: AdaPrune by least squares, on the dense model's inputs or layer after layer; `adam`,
  `wanda` and `obs` are `independent` with Adam in place of least squares, or another score. `sparsegpt`: a sweep,
  sequential, with least squares at the end.
- `fine-tuned`: one epoch on the 10000 training images after `independent`.
- "unstructured" models have one threshold for all layers, or keep the same share "of each layer". "from unstructured":
  such a model after `independent`, converted to what each layer's zeros nearly satisfy (m = 8, confidence 0.9);
  `batch-norm` is the new mask alone, `independent` with another refit, to the outputs of the unstructured model.

{table}

Mean over layers of the relative error of outputs (of what varies), before and after the refit, and seconds for the
whole model, on a machine that did other work too (median; `independent` and its kin share one pass over the data for
each seed, half a minute, which the first of them pays):

{errors}
"""


def cell(rows: Rows) -> str:
    """Mean Top-1, range, seeds."""
    if not rows:
        return ""
    values = [100 * float(row["top1"]) for row in rows]
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.fmean(values):.2f} ({min(values):.2f}-{max(values):.2f}, {len(values)})"


def accuracies(rows: Rows) -> str:
    """Models down, stages across."""
    stages = [stage for stage in STAGES if any(row["stage"] == stage for row in rows)]
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        chosen = [row for row in rows if row["model"] == model]
        cells = [cell([row for row in chosen if row["stage"] == stage]) for stage in stages]
        # Once refitted, since what a mask keeps of a sparse model can be zero before.
        pruned = [row for row in chosen if row["stage"] == "independent"] or chosen
        nonzero = statistics.fmean(100 * float(row["nonzero"]) for row in pruned)
        lines.append([model.removesuffix(" auto"), f"{nonzero:.1f}%", *cells])
    return markdown.table(["model", "nonzero", *stages], lines)


def errors(rows: Rows) -> str:
    """Of the stages that refit."""
    lines = []
    groups: dict[tuple[str, str], Rows] = {}
    for row in rows:
        if row["error_mean"] and row["stage"] not in ("one-shot", "batch-norm", "fine-tuned"):
            groups.setdefault((row["model"], row["stage"]), []).append(row)
    for (model, stage), group in groups.items():
        masked, refitted = (
            statistics.fmean(float(row[key]) for row in group) for key in ("error_masked_mean", "error_mean")
        )
        seconds = statistics.median(float(row["seconds"]) for row in group)
        lines.append([model.removesuffix(" auto"), stage, f"{masked:.4f}", f"{refitted:.4f}", f"{seconds:.0f}"])
    return markdown.table(["model", "stage", "masked", "refitted", "seconds"], lines)


def main(csv: Annotated[Path, typer.Argument(help="Rows of bench.adaprune.")] = RESULTS / "adaprune.csv") -> None:
    """Write CSV.md beside the CSV."""
    rows = read_rows(csv)
    if not rows:
        raise FileFormatError(f"{csv} has no rows; run `python -m bench.adaprune` first")
    first = rows[0]
    text = TEXT.format(
        name=csv.name,
        commits=", ".join(sorted({row["commit"] for row in rows})),
        cpu=first["cpu"],
        threads=first["threads"],
        date=first["date"][:10],
        table=accuracies(rows),
        errors=errors(rows),
    )
    print(markdown.write_page(csv, text))


if __name__ == "__main__":
    typer.run(main)

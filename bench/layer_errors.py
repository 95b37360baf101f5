"""Error by layer of a pruned language model, for the gallery: rows into layer_errors.csv, and the figure from them.

python -m bench.layer_errors --model DIR      (measure, then draw)
python -m bench.layer_errors                  (draw)
"""

from __future__ import annotations

import pydoc_data.topics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.llm_models import truncated
from bench.rows import RESULTS, commit, read_rows
from tmask.comparison.environment import environment
from tmask.files.csv_files import write_csv
from tmask.plots.pruning import draw_pruning

OUT = RESULTS / "layer_errors.csv"
_SAMPLES, _LENGTH = 8, 256


def measure(model: Path, blocks: int, pattern: str, method: str) -> list[dict[str, Any]]:
    """A row for each matrix of a model's first blocks, calibrated on English text that comes with Python."""
    import torch

    from tmask.nn import prune_blocks
    from tmask.nn.calibration.text import calibration_text

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "topics.txt"
        text.write_text("\n\n".join(pydoc_data.topics.topics.values()))
        batches = calibration_text(text, model, samples=_SAMPLES, length=_LENGTH)
        cut = truncated(model, folder / "cut", blocks)
        report = prune_blocks(cut, batches, pattern, output=folder / "pruned", method=method, goal="layer")
    job = {"method": method, "pattern": pattern, "samples": _SAMPLES, "length": _LENGTH, "text": "pydoc_data.topics"}
    return [job | row | {"commit": commit(), "threads": 1} | environment() for row in report.table()]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """The figure from rows of the CSV alone."""
    first = rows[0]
    matrices = [{"name": row["name"], "error": float(row["error"])} for row in rows]
    title = f"Error by layer: SmolLM2-135M, first blocks, transposable {first['pattern']} by {first['method']}"
    draw_pruning({"matrices": matrices}, path, title=title)


def main(
    model: Annotated[Path | None, typer.Option(help="Directory of a Hugging Face model.")] = None,
    blocks: Annotated[int, typer.Option(min=1)] = 6,
    pattern: str = "4:8",
    method: str = "wanda",
    out: Path = OUT,
) -> None:
    """Measure if a model is given, and draw beside the CSV."""
    if model is not None:
        write_csv(out, measure(model, blocks, pattern, method), overwrite=True)
    draw(read_rows(out), out.with_suffix(".png"))
    print(out.with_suffix(".png"))


if __name__ == "__main__":
    typer.run(main)

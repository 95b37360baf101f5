"""`tmask evaluate`: perplexity of language models on a text, side by side."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from tmask.cli.console import progress_bar
from tmask.cli.exit_codes import reports_errors
from tmask.cli.language_models import (
    DeviceOption,
    DtypeOption,
    FieldOption,
    check_directory,
    need_libraries,
    read_device,
    read_dtype,
)
from tmask.cli.options import Json
from tmask.cli.output import Row, show_json, show_table
from tmask.errors import InvalidProblemError, TmaskError
from tmask.showing.numbers import number, percent

if TYPE_CHECKING:
    from torch import Tensor

    from tmask.nn.calibration.perplexity import Perplexity, Windows


@reports_errors
def evaluate(
    models: Annotated[list[Path], typer.Argument(help="Directories of Hugging Face models; the first is compared to.")],
    text: Annotated[Path, typer.Option("--text", "-t", help="A text file, or JSON lines (.jsonl).")],
    field: FieldOption = "text",
    length: Annotated[int, typer.Option(min=2, help="Tokens in a window.")] = 512,
    windows: Annotated[int | None, typer.Option(min=1, help="So many windows, drawn by the seed; else all.")] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="From one window to the next: sliding windows; else disjoint ones.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw of windows.")] = 0,
    dtype: DtypeOption = "float32",
    device: DeviceOption = "cpu",
    json: Json = False,
) -> None:
    """Perplexity on a text, which should not be the one that a model was pruned with.

    In disjoint windows each token but the first of a window is judged; in sliding ones, a window's last tokens, as many
    as the stride. Models whose tokenizers cut the text in another way are refused: their numbers are not comparable.
    """
    need_libraries("evaluate")
    for model in models:
        check_directory(model)
    number_type, place = read_dtype(dtype), read_device(device)
    tokens, chosen = _prepare(models, text, field, length, stride, windows, seed)
    rows: list[dict[str, Any]] = []
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with progress_bar(*columns) as bar:
        task = bar.add_task("", total=len(chosen.starts) * len(models))
        for index, model in enumerate(models):
            bar.update(task, description=model.name)
            try:
                found, zeros = _measure(model, tokens, chosen, number_type, place, _Step(bar, task, index))
            except TmaskError as error:
                raise type(error)(f"{model}: {str(error).removeprefix(f'{model}: ')}") from error
            first = rows[0]["perplexity"] if rows else found.value
            rows.append(
                {"model": str(model), "perplexity": found.value, "ratio": found.value / first, "zeros": zeros}
                | {key: value for key, value in asdict(found).items() if key != "value"}
            )
    if json:
        show_json({"text": str(text), "how": found.how, "tokens": len(tokens), "models": rows})
        return
    show_table(f"Perplexity on {text.name}, {found.how}", [_words(row) for row in rows], texts=("model",))


class _Step:
    """Moves the bar on by the windows of one model of several."""

    def __init__(self, bar: Bar, task: TaskID, index: int) -> None:
        self.bar, self.task, self.index = bar, task, index

    def __call__(self, done: int, count: int, name: str) -> None:
        self.bar.update(self.task, completed=self.index * count + done)


def _prepare(
    models: Sequence[Path],
    text: Path,
    field: str,
    length: int,
    stride: int | None,
    windows: int | None,
    seed: int,
) -> tuple[Tensor, Windows]:
    """The text's tokens, the same for every model, and the windows."""
    import torch

    from tmask.nn.calibration.perplexity import choose_windows
    from tmask.nn.calibration.text import load_tokenizer, read_documents, tokenise

    documents = read_documents(text, field)
    found: Tensor | None = None
    for model in models:
        parts = tokenise(documents, load_tokenizer(model))
        tokens = torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)
        if found is not None and not torch.equal(found, tokens):
            raise InvalidProblemError(
                f"{model} cuts {text} into other tokens than {models[0]}: perplexities by the token are not comparable"
            )
        found = tokens
    assert found is not None
    try:
        return found, choose_windows(len(found), length, stride, windows, seed)
    except InvalidProblemError as error:
        raise InvalidProblemError(f"{text}: {error}") from error


def _measure(
    path: Path, tokens: Tensor, windows: Windows, dtype: Any, device: Any, progress: _Step
) -> tuple[Perplexity, float]:
    """Perplexity and share of zeros of one model, which is let go again."""
    from tmask.nn.calibration.language_models import check_readable, load_language_model, share_of_zeros
    from tmask.nn.calibration.perplexity import perplexity

    model = load_language_model(path, dtype, device)
    check_readable(model.config, windows.length, int(tokens.max()))
    found, zeros = perplexity(model, tokens, windows, progress), share_of_zeros(model)
    del model
    gc.collect()  # modules hold themselves in circles, and the next model needs the room
    return found, zeros


def _words(row: dict[str, Any]) -> Row:
    return {
        "model": row["model"],
        "perplexity": number(row["perplexity"]),
        "ratio": f"{row['ratio']:.3f}",
        "windows": f"{row['windows']:,}",
        "tokens": f"{row['tokens']:,}",
        "zeros": percent(row["zeros"]),
    }

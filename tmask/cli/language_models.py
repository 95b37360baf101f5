"""What the commands on language models share: the libraries that they need, types of numbers, devices."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tmask.errors import InvalidProblemError, SolverUnavailableError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16", "files")

FieldOption = Annotated[str, typer.Option("--field", help="Of a JSON line, that holds its text.")]
DtypeOption = Annotated[
    str, typer.Option("--dtype", help="To compute in: float32, bfloat16, float16, or as the files.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="To compute on: cpu, cuda, ...")]


def need_libraries(command: str) -> None:
    """Return if a command on language models can run; keep the libraries from printing.

    Raises:
        SolverUnavailableError: one is not installed; gives the pip line.
    """
    for name in ("torch", "transformers", "accelerate"):
        if importlib.util.find_spec(name) is None:
            raise SolverUnavailableError(f'tmask {command} needs {name}; run: pip install "tmask[transformers]"')
    from transformers.utils import logging

    printing: Any = logging
    printing.set_verbosity_error()
    printing.disable_progress_bar()


def read_dtype(text: str) -> torch.dtype | None:
    """The type of numbers that a text names; None for that of the files.

    Raises:
        InvalidProblemError: it names none.
    """
    if text not in DTYPES:
        raise InvalidProblemError(f"--dtype {text!r}: choose one of {', '.join(DTYPES)}")
    import torch

    return None if text == "files" else getattr(torch, text)


def read_device(text: str) -> torch.device:
    """The device that a text names.

    Raises:
        InvalidProblemError: it names none that is here.
    """
    import torch

    try:
        device = torch.device(text)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise InvalidProblemError(f"--device {text!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def check_directory(path: Path) -> None:
    """Return if a path is the directory of a model.

    Raises:
        InvalidProblemError: it is not.
    """
    if not (path / "config.json").is_file():
        raise InvalidProblemError(f"{path} has no config.json; give the directory of a Hugging Face model")

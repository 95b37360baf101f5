"""What an output's name promises, held against what can be written; before any work."""

from __future__ import annotations

from pathlib import Path

from tmask.errors import InvalidProblemError

WEIGHT_ENDINGS = (".safetensors", ".npz", ".npy", ".pt", ".pth", ".bin")
# Names that promise something else, to whoever opens the file by its name.
_OTHERS = (*WEIGHT_ENDINGS, ".json", ".gguf", ".h5", ".onnx", ".msgpack", ".pkl", ".parquet", ".xlsx", ".zip")


def check_masks_name(path: Path | None) -> None:
    """Return if a mask file may have this name.

    Raises:
        InvalidProblemError: it promises another format.
    """
    if path is not None and path.suffix.lower() != ".safetensors":
        raise InvalidProblemError(
            f"{path}: masks are written as safetensors; give a name that ends with .safetensors, such as "
            f"{path.with_suffix('.safetensors') if path.name else 'masks.safetensors'}"
        )


def check_csv_name(path: Path | None) -> None:
    """Return if rows of a table may have this name.

    Raises:
        InvalidProblemError: it promises another format.
    """
    if path is not None and path.suffix.lower() in _OTHERS:
        raise InvalidProblemError(f"{path}: rows are written as CSV; give a name that ends with .csv")


def check_directory_name(path: Path) -> None:
    """Return if a model's directory may have this name.

    Raises:
        InvalidProblemError: it promises a file.
    """
    if path.suffix.lower() in _OTHERS:
        raise InvalidProblemError(f"{path}: a directory is written; give a name without {path.suffix}")

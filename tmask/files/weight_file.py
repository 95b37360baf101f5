"""What every format opens as: named tensors, read one at a time."""

from __future__ import annotations

import difflib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tmask.errors import FileFormatError
from tmask.files.tensors import Tensor

# What the readers of Python, numpy and torch raise on damaged files (a RecursionError is a RuntimeError).
DAMAGE = (
    OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, RuntimeError, MemoryError, OverflowError,
    SyntaxError, NotImplementedError, zipfile.BadZipFile, zlib.error, struct.error,
    tokenize.TokenError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class WeightFile:
    """Named tensors of a file.

    Args:
        path: of the file.
        shapes, dtypes: by tensor name, in the order of the file; of every tensor, readable or not.
        load: reads a tensor by name.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    load: Callable[[str], Tensor]

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tensors."""
        return tuple(self.shapes)

    def read(self, name: str) -> Tensor:
        """One tensor.

        Raises:
            FileFormatError: no tensor has that name, or its contents cannot be read.
        """
        if name not in self.shapes:
            close = difflib.get_close_matches(name, self.names, 3)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise FileFormatError(f"{self.path} holds no tensor {name!r}{hint}")
        try:
            return self.load(name)
        except FileFormatError:
            raise
        except DAMAGE as error:
            raise FileFormatError(f"{self.path}: tensor {name!r} cannot be read ({describe(error)})") from error


def describe(error: BaseException) -> str:
    """The first line of an error's text, or its kind if it has none."""
    text = getattr(error, "strerror", None) or str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def unlike(path: Path, what: str, error: BaseException) -> FileFormatError:
    """The error for a file whose contents are not what its name says; where the first bytes tell, what they are."""
    try:
        with path.open("rb") as file:
            start = file.read(24)
    except OSError:
        start = b"?"
    hints = {
        b"version https://git-lfs": "it is a Git LFS pointer: fetch the file itself with `git lfs pull`",
        b"\x93NUMPY": "it starts like a .npy file: rename it",
        b"PK": "it starts like a .npz or a torch file (.pt): rename it if it is one",
        b"<": "it starts like a web page: download it again",
    }
    known = (h for begin, h in hints.items() if start.startswith(begin) and path.suffix.lower() not in h)
    hint = next(known, None) if start else "it is empty"
    return FileFormatError(f"{path} is no complete {what}: {hint or describe(error) + '; get a fresh copy'}")

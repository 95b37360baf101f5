"""Damaged files: what their readers raise, and how the errors are worded."""

from __future__ import annotations

import re
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

from tmask.errors import FileFormatError

# What the readers of Python, numpy and torch raise on damaged files (a RecursionError is a RuntimeError).
DAMAGE = (
    OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, RuntimeError, MemoryError, OverflowError,
    SyntaxError, NotImplementedError, zipfile.BadZipFile, zlib.error, struct.error,
    tokenize.TokenError,
)  # fmt: skip

_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def describe(error: BaseException) -> str:
    """The first line of an error's text, or its kind if it has none."""
    text = _ESCAPES.sub("", getattr(error, "strerror", None) or str(error)).strip()  # torch's advice comes in bold
    return text.splitlines()[0] if text else type(error).__name__


def is_text(name: str) -> bool:
    """Whether UTF-8 has it: half a character may stand in the names of torch files, and in those of files."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


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
    # A file that starts as its name says is damaged further on: renaming it would not help.
    known = (h for begin, h in hints.items() if start.startswith(begin) and path.suffix.lower() not in h)
    hint = next(known, None) if start else "it is empty"
    return FileFormatError(f"{path} is no complete {what}: {hint or describe(error) + '; get a fresh copy'}")

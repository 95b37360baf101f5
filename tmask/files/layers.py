"""Choose the layers of a weight file that get masks; what is left out is listed with its reason, never silently."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tmask.errors import InvalidProblemError
from tmask.files.tensors import FLOATS
from tmask.files.weight_file import WeightFile

# Look-up tables, which no matrix product multiplies: the usual names of embeddings.
_EMBEDDING = re.compile(r"(^|[._])(\w*embed\w*|wte|wpe|\w*_emb|emb)([._]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Layer:
    """A tensor that gets a mask; `groups` of a grouped convolution."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    groups: int = 1


@dataclass(frozen=True, slots=True)
class Skipped:
    """A tensor that gets none, and why."""

    name: str
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Every tensor of a file, on one side or the other."""

    layers: list[Layer]
    skipped: list[Skipped]


def select_layers(
    file: WeightFile,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    *,
    regex: bool = False,
    groups: Mapping[str, int] | None = None,
) -> Selection:
    """The layers to mask: floating tensors of two or more axes, embeddings aside unless they are included by name.

    Args:
        include, exclude: globs (`*` crosses dots), or regular expressions that may match anywhere in the name.
        groups: of grouped convolutions, by glob or regular expression.
    Raises:
        InvalidProblemError: a filter that matches no tensor, a broken regular expression, nothing left to mask.
    """
    for option, patterns in (("include", include), ("exclude", exclude)):
        if isinstance(patterns, str):  # a sequence too, but of single letters
            raise InvalidProblemError(f"{option} is the text {patterns!r}; give a list of patterns: [{patterns!r}]")
    wanted, unwanted = [_matcher(p, regex) for p in include], [_matcher(p, regex) for p in exclude]
    grouped = [(_matcher(pattern, regex), count) for pattern, count in (groups or {}).items()]
    # A filter without a match is a slip of the keyboard, and would choose other layers without a word.
    for pattern, match in zip(
        (*include, *exclude, *(groups or ())), (*wanted, *unwanted, *(g[0] for g in grouped)), strict=True
    ):
        if not any(match(name) for name in file.names):
            raise InvalidProblemError(_no_match(pattern, file))
    layers, skipped = [], []
    for name in file.names:
        shape, dtype = file.shapes[name], file.dtypes[name]
        if reason := _reason(name, shape, dtype, wanted, unwanted):
            skipped.append(Skipped(name, shape, reason))
        else:
            count = next((count for match, count in grouped if match(name)), 1)
            layers.append(Layer(name, shape, dtype, count))
    if not layers:
        reasons = "; ".join(f"{item.name}: {item.reason}" for item in skipped[:10]) or "it holds no tensors"
        raise InvalidProblemError(f"{file.path}: no layer is left to mask ({reasons})")
    return Selection(layers, skipped)


def _reason(
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    wanted: list[Callable[[str], bool]],
    unwanted: list[Callable[[str], bool]],
) -> str:
    """Why a tensor gets no mask, or ""."""
    included = any(match(name) for match in wanted)
    if any(match(name) for match in unwanted):
        return "excluded"
    if wanted and not included:
        return "not included"
    if len(shape) < 2:
        return f"{len(shape)}-D, no matrix"
    if 0 in shape:
        return "empty"
    if dtype not in FLOATS:
        return f"dtype {dtype}"
    if not included and _EMBEDDING.search(name):
        return "an embedding by its name (include it to mask it)"
    return ""


def _matcher(pattern: str, regex: bool) -> Callable[[str], bool]:
    # Not `fnmatch.fnmatch`, which ignores case on Windows: names of tensors differ by it.
    if not regex:
        return lambda name: fnmatch.fnmatchcase(name, pattern)
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:  # a{9999999999}; parentheses without end
        raise InvalidProblemError(f"{pattern!r} is no regular expression: {error}") from error
    return lambda name: compiled.search(name) is not None


def _no_match(pattern: str, file: WeightFile) -> str:
    # What only marks an end, or stands for anything, would make every name look unlike.
    close = difflib.get_close_matches(pattern.strip("^*?$"), file.names, 3, cutoff=0.4)
    hint = f"did you mean {', '.join(close)}? " if close else ""
    shown = ", ".join(file.names[:10]) + (", ..." if len(file.names) > 10 else "") or "no tensors"
    return f"{pattern!r} matches no tensor of {file.path}; {hint}it holds {shown}"

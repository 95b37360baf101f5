"""Choose the layers of a weight file that get masks; what is left out is listed with its reason, never silently."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tmask.blocks.layouts import LAYOUTS, in_words
from tmask.errors import FileFormatError, InvalidProblemError
from tmask.files.bands import Band
from tmask.files.roles.deciding import Convolutions, Role, Roles
from tmask.files.roles.names import Waiver
from tmask.files.weight_file import WeightFile

_Match = Callable[[str], bool]
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Layer:
    """A tensor that gets a mask, or a band of one; `groups` of a grouped convolution, `layout` as it is read."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    groups: int = 1
    layout: str = "matrix"
    band: Band | None = None

    def cut(self, first: int, last: int) -> Layer:
        """A band of it, of lines from and up to which."""
        band = Band(self.name, self.shape, self.groups, self.layout, first, last)
        return Layer(band.name, band.shape, self.dtype, band.own_groups, band.own_layout, band)

    @property
    def read_as(self) -> str:
        """In words, for a table."""
        return in_words(self.shape, self.layout, self.groups)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A tensor that gets none, and why."""

    name: str
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Every tensor of a file, on one side or the other; and remarks on how some are read."""

    layers: list[Layer]
    skipped: list[Skipped]
    remarks: list[str] = field(default_factory=list)


def select_layers(
    file: WeightFile,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    *,
    regex: bool = False,
    groups: Mapping[str, int] | None = None,
    layouts: Mapping[str, str] | None = None,
    side: int | None = None,
    convolutions: Convolutions | None = None,
) -> Selection:
    """The layers to mask: weights by their role (`tmask.files.roles`), as far as they are wanted.

    Args:
        include, exclude: globs (`*` crosses dots), or regular expressions that may match anywhere in the name.
        groups: of grouped convolutions, by glob or regular expression.
        layouts: "matrix", "stack" or "convolution", by glob or regular expression.
        side: of a tile; layers without a full one are left out.
        convolutions: what knows the groups of the model's convolutions, which files do not.
    Raises:
        InvalidProblemError: a filter that matches no tensor, a broken regular expression, an unknown layout, a layer
            that may be a stack or a convolution, nothing left to mask.
        FileFormatError: layers that are wanted are quantised.
    """
    for option, patterns in (("include", include), ("exclude", exclude)):
        if isinstance(patterns, str):  # a sequence too, but of single letters
            raise InvalidProblemError(f"{option} is the text {patterns!r}; give a list of patterns: [{patterns!r}]")
    for pattern, layout in (layouts or {}).items():
        if layout not in LAYOUTS:
            raise InvalidProblemError(f"layout {layout!r} of {pattern!r}: choose from {', '.join(LAYOUTS)}")
    wanted = _Wanted(file, include, exclude, regex)
    roles = Roles(file, side, _by_name(file, layouts or {}, regex), _by_name(file, groups or {}, regex), convolutions)
    refused = {name: wanted.refusal(name) for name in file.names}
    _refuse_codes(file, roles, [name for name in roles.codes if not refused[name]])
    layers, skipped, unclear = [], [], []
    for name in file.names:
        role, shape = roles.of(name), file.shapes[name]
        if reason := refused[name] or wanted.reason(name, role):
            skipped.append(Skipped(name, shape, reason))
        elif not role.layout:
            unclear.append(name)
        else:
            layers.append(Layer(name, shape, file.dtypes[name], role.groups, role.layout))
    if unclear:
        raise _unclear(file, unclear)
    if not layers:
        reasons = "; ".join(f"{item.name}: {item.reason}" for item in skipped[:10]) or "it holds no tensors"
        raise InvalidProblemError(f"{file.path}: no layer is left to mask ({reasons})")
    return Selection(layers, skipped, _remarks(layers, roles))


class _Wanted:
    """What the user's options say of a name."""

    def __init__(self, file: WeightFile, include: Sequence[str], exclude: Sequence[str], regex: bool) -> None:
        self._texts = {pattern.replace("\\", "").strip("^$") if regex else pattern for pattern in include}
        self._include = [_matcher(file, pattern, regex) for pattern in include]
        self._exclude = [_matcher(file, pattern, regex) for pattern in exclude]

    def refusal(self, name: str) -> str:
        """Why the user does not want it, or ""."""
        if any(match(name) for match in self._exclude):
            return "excluded"
        return "not included" if self._include and not self._included(name) else ""

    def reason(self, name: str, role: Role) -> str:
        """Why it gets no mask by its role, unless the user says otherwise; or ""."""
        if not role.reason or role.waiver is Waiver.NEVER:
            return role.reason
        # A glob such as "layers.*" would bring routers and norms along, which nobody meant.
        lifted = self._included(name) if role.waiver is Waiver.MATCH else name in self._texts
        return "" if lifted else f"{role.reason} ({role.waiver.advice} to mask it)"

    def _included(self, name: str) -> bool:
        return any(match(name) for match in self._include)


def _by_name(file: WeightFile, given: Mapping[str, Value], regex: bool) -> dict[str, Value]:
    """What is given by pattern, by name; the first that matches counts."""
    matchers = [(_matcher(file, pattern, regex), value) for pattern, value in given.items()]
    found = {}
    for name in file.names:
        if (value := next((value for match, value in matchers if match(name)), None)) is not None:
            found[name] = value
    return found


def _matcher(file: WeightFile, pattern: str, regex: bool) -> _Match:
    """Whether a name matches a glob or regular expression, which must match one of the file's."""
    match = _expression(pattern) if regex else _glob(pattern)
    # A filter without a match is a slip of the keyboard, and would choose other layers without a word.
    if not any(match(name) for name in file.names):
        raise InvalidProblemError(_no_match(pattern, file))
    return match


def _glob(pattern: str) -> _Match:
    # Not `fnmatch.fnmatch`, which ignores case on Windows: names of tensors differ by it.
    return lambda name: fnmatch.fnmatchcase(name, pattern)


def _expression(pattern: str) -> _Match:
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:  # a{9999999999}; parentheses without end
        raise InvalidProblemError(f"{pattern!r} is no regular expression: {error}") from error
    return lambda name: compiled.search(name) is not None


def _no_match(pattern: str, file: WeightFile) -> str:
    # What only marks an end, or stands for anything, would make every name look unlike.
    close = difflib.get_close_matches(pattern.strip("^*?$"), file.names, 3, cutoff=0.4)
    hint = f"did you mean {', '.join(close)}? " if close else ""
    return f"{pattern!r} matches no tensor of {file.path}; {hint}it holds {_shown(file.names) or 'no tensors'}"


def _refuse_codes(file: WeightFile, roles: Roles, wanted: Sequence[str]) -> None:
    """Return if no quantised tensor is wanted: their codes cannot be masked, nor may what is beside them."""
    if not wanted:
        return
    name, method = wanted[0], roles.config.quantisation
    beside = f", and {roles.codes[name]} says what they stand for" if roles.codes[name] else ""
    raise FileFormatError(
        f"{file.path} is quantised{f' ({method})' if method else ''}: {name} holds codes of dtype {file.dtypes[name]}, "
        f"no weights{beside}. Dequantise the model first, with the library that quantised it, and save that; or take "
        f"the model that it was made from. {len(wanted)} of its tensors are quantised; --exclude leaves them out"
    )


def _unclear(file: WeightFile, names: Sequence[str]) -> InvalidProblemError:
    shown = "; ".join(f"{name} {file.shapes[name]}" for name in names[:5]) + ("; ..." if len(names) > 5 else "")
    return InvalidProblemError(
        f"{file.path}: stacks of matrices, such as experts, or convolutions? {shown}. Say --layout '{names[0]}=stack' "
        f"or --layout '{names[0]}=convolution' (layouts= in Python), or leave them out with --exclude"
    )


def _remarks(layers: Sequence[Layer], roles: Roles) -> list[str]:
    """What a reader must know of how layers were read."""
    read = [layer.name for layer in layers if layer.layout == "convolution"]
    ungrouped = [name for name in read if name not in roles.given_groups and name not in roles.known_groups]
    if not ungrouped:
        return []
    return [
        f"read as convolutions without groups: {in_short(ungrouped)}; if one is grouped, give its groups with --groups "
        "NAME=G, or its tiles cross them"
    ]


def in_short(names: Sequence[str]) -> str:
    """Names with numbers left out where they differ by these alone, and how many there are of each."""
    counts: dict[str, list[str]] = {}
    for name in names:
        counts.setdefault(re.sub(r"(?<![^.])\d+(?![^.])", "*", name), []).append(name)
    return ", ".join(same[0] if len(same) == 1 else f"{short} ({len(same)})" for short, same in counts.items())


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")

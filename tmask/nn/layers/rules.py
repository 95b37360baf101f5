"""Which layers the user wants, and under which pattern.

A layer goes by the full name of its parameter ("encoder.0.linear1.weight"). A glob matches it by that name, or by the
name of any module that holds it ("encoder.0.linear1", "encoder").
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError

Filter = Callable[[nn.Module, str], bool]
PatternRules = Pattern | str | Mapping[str, Pattern | str]


@dataclass(frozen=True, slots=True)
class LayerRules:
    """Which layers the user wants a mask on, and of which pattern; checked.

    Args:
        patterns: glob to pattern; the first that matches counts.
        include, exclude: globs.
        filter_fn: called with the module and the layer's name; True = mask it.
    """

    patterns: Mapping[str, Pattern]
    include: Sequence[str]
    exclude: Sequence[str]
    filter_fn: Filter | None

    @classmethod
    def parse(
        cls, pattern: PatternRules, include: Sequence[str], exclude: Sequence[str], fn: Filter | None
    ) -> LayerRules:
        """The rules behind the arguments of `sparsify`.

        Raises:
            InvalidProblemError: no pattern, or a text where a list of globs belongs.
        """
        for option, globs in (("include", include), ("exclude", exclude)):
            if isinstance(globs, str):  # a sequence too, but of single letters
                raise InvalidProblemError(f"{option} is the text {globs!r}; give a list of globs: [{globs!r}]")
        patterns = pattern if isinstance(pattern, Mapping) else {"*": pattern}
        return cls({glob: Pattern.parse(p) for glob, p in patterns.items()}, tuple(include), tuple(exclude), fn)

    def check_globs(self, names: Sequence[str]) -> None:
        """Return if every glob matches one of the names at least; "*" always does.

        Raises:
            InvalidProblemError: one that does not, with names that are close to it.
        """
        for glob in (*self.patterns, *self.include, *self.exclude):
            if glob != "*" and not any(matches(glob, name) for name in names):
                raise InvalidProblemError(_no_match(glob, names))

    def pattern(self, name: str) -> Pattern | None:
        """The pattern that a layer gets, or None."""
        return next((pattern for glob, pattern in self.patterns.items() if matches(glob, name)), None)

    @property
    def asked(self) -> list[str]:
        """Globs that ask for layers which stay dense by default; "*" means all of those that do not."""
        return [glob for glob in (*self.patterns, *self.include) if glob != "*"]

    def refusal(self, module: nn.Module, name: str) -> str:
        """Why the user does not want a mask there, or ""."""
        if any(matches(glob, name) for glob in self.exclude):
            return "excluded"
        if not any(matches(glob, name) for glob in self.include):
            return "not included"
        if self.pattern(name) is None:
            return "no pattern is given for it"
        if self.filter_fn is not None and not self.filter_fn(module, name):
            return "filter_fn says no"
        return ""


def matches(glob: str, name: str) -> bool:
    """Whether a glob matches a layer's name, or that of a module around it."""
    parts = name.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[:end]), glob) for end in range(1, len(parts) + 1))


def _no_match(glob: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(glob.strip("*"), [*names, *(n.rpartition(".")[0] for n in names)], 3, cutoff=0.4)
    hint = f"did you mean {', '.join(close)}? " if close else ""
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "") or "no weights of two or more axes"
    return f"{glob!r} matches no layer; {hint}the model has {shown}"

"""Which layers the user wants pruned."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from tmask.errors import InvalidProblemError


@dataclass(frozen=True, slots=True)
class LayerFilter:
    """What the user wants pruned.

    Args:
        include, exclude: globs on names of modules (`*` crosses dots). A layer that `include` matches is pruned even
            at an end of the model; if `include` is given, no other layer is.
        skip_ends: leave the first convolution and the classifier (the layer that is called last) dense.
        named: names of modules that count as included, and leave all others as they would be without them.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    skip_ends: bool = True
    named: Collection[str] = ()

    def __post_init__(self) -> None:
        for option, globs in (("include", self.include), ("exclude", self.exclude)):
            # A text is a sequence too, of letters, which would be taken for globs.
            if isinstance(globs, str):
                raise InvalidProblemError(f"{option} is the text {globs!r}; give a list of globs: [{globs!r}]")
            if not isinstance(globs, Sequence):
                raise InvalidProblemError(f"{option} is {globs!r}; give a list of globs")

    def check(self, names: Iterable[str]) -> None:
        """Return if every glob matches one of the names: one that matches nothing is misspelt.

        Raises:
            InvalidProblemError: says which does not.
        """
        known = list(names)
        for glob in (*self.include, *self.exclude):
            if not fnmatch.filter(known, glob):
                shown = ", ".join(known[:10]) or "none"
                raise InvalidProblemError(f"{glob!r} matches no linear or convolution layer; the model has {shown}")

    def reason(self, name: str, end: str) -> str:
        """Why a layer is left dense, or "".

        Args:
            name: of the layer.
            end: which end of the model it is, or "".
        """
        if _matches(name, self.exclude):
            return "excluded"
        included = name in self.named or _matches(name, self.include)
        if self.include and not included:
            return "not included"
        # Whoever names an end wants it pruned; a glob that happens to match it counts as naming.
        if end and self.skip_ends and not included:
            return f"{end} (include it to prune it)"
        return ""


def literal(name: str) -> str:
    """A glob that matches this name alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def matches(glob: str, name: str) -> bool:
    """Whether a glob matches the name of a module."""
    # With its case on every system: `fnmatch.fnmatch` ignores it on Windows.
    return fnmatch.fnmatchcase(name, glob)


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(matches(glob, name) for glob in globs)

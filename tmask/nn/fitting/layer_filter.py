"""Which layers the user wants pruned."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from tmask.errors import InvalidProblemError
from tmask.nn.libraries.roles import ModelRoles
from tmask.nn.names import matches, parameter_of


@dataclass(frozen=True, slots=True)
class LayerFilter:
    """What the user wants pruned.

    Args:
        include, exclude: globs on names of layers, or of modules around them (`*` crosses dots). A layer that `include`
            matches is pruned even at an end of the model; if `include` is given, no other layer is.
        skip_ends: leave the first convolution, the classifier (the layer that is called last), and what names say is
            an embedding or the output head, dense.
        named: full names that count as included, and leave all others as they would be without them.
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
            if not any(matches(glob, name) for name in known):
                shown = ", ".join(known[:10]) or "none"
                raise InvalidProblemError(f"{glob!r} matches no layer; the model has {shown}")

    def reason(self, name: str) -> str:
        """Why the user does not want a layer pruned, or ""."""
        if any(matches(glob, name) for glob in self.exclude):
            return "excluded"
        return "not included" if self.include and not self._includes(name) else ""

    def held_back(self, name: str, end: str, roles: ModelRoles) -> str:
        """Why a layer stays dense as long as nobody asks for it, or "".

        Args:
            end: the end of the model that it is, or "".
            roles: of the model's parameters.
        """
        # Whoever names it wants it pruned; a glob that happens to match an end counts as naming.
        if end and not self._includes(name):
            return f"{end} (include it to prune it)"
        parameter = parameter_of(name)
        reason = roles.held_back(parameter, (*self.include, *self.named), matches, self.skip_ends)
        return f"{reason} ({roles.advice(parameter)} to prune it)" if reason else ""

    def _includes(self, name: str) -> bool:
        return bool({name, parameter_of(name)} & {*self.named}) or any(matches(glob, name) for glob in self.include)


def literal(name: str) -> str:
    """A glob that matches this name alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)

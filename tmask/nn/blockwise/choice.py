"""Which matrices are pruned, and to which masks."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn.methods.support import Plain, Support, Transposable, Unstructured
from tmask.solving.solver import Solver

Target = Pattern | str | float
MatrixPatterns = Target | Mapping[str, Pattern | str]


@dataclass(frozen=True, slots=True)
class MatrixChoice:
    """What the user asked for. A glob matches a parameter's full name, or that of any module around it.

    Args:
        supports: masks by glob; the first that matches counts, and what none matches stays dense.
        exclude: globs of what stays dense.
    """

    supports: Mapping[str, Support]
    exclude: tuple[str, ...] = ()

    @classmethod
    def parse(
        cls, pattern: MatrixPatterns, transposable: bool, solver: Solver | str, exclude: Sequence[str] = ()
    ) -> MatrixChoice:
        """The choice behind the arguments of `prune_blocks`.

        Raises:
            InvalidProblemError: no pattern; a solver where none is needed; a text where a list of globs belongs.
        """
        if isinstance(exclude, str):  # a sequence too, but of single letters
            raise InvalidProblemError(f"exclude is the text {exclude!r}; give a list of globs: [{exclude!r}]")
        targets = pattern if isinstance(pattern, Mapping) else {"*": pattern}
        supports = {glob: _support(target, transposable, solver) for glob, target in targets.items()}
        if solver != "auto" and not any(isinstance(support, Transposable) for support in supports.values()):
            raise InvalidProblemError("a solver finds transposable masks; other ones are the best by sorting")
        return cls(supports, tuple(exclude))

    def check(self, names: Iterable[str]) -> None:
        """Return if every glob matches one of the names at least.

        Raises:
            InvalidProblemError: one that does not.
        """
        known = [*names]
        for glob in (*self.supports, *self.exclude):
            if not any(matches(glob, name) for name in known):
                raise InvalidProblemError(f"{glob!r} matches no weight of the model, such as {', '.join(known[:3])}")

    def support(self, name: str) -> Support | None:
        """The masks allowed for a parameter, or None."""
        return next((support for glob, support in self.supports.items() if matches(glob, name)), None)

    @property
    def asked(self) -> list[str]:
        """Globs that ask for parameters which stay dense by default; "*" means all of those that do not."""
        return [glob for glob in self.supports if glob != "*"]

    def refusal(self, name: str) -> str:
        """Why the user does not want a parameter pruned, or ""."""
        if any(matches(glob, name) for glob in self.exclude):
            return "excluded"
        return "" if self.support(name) is not None else "no pattern is given for it"


def least_sides(support: Support) -> tuple[int, int]:
    """Outputs and inputs below which a matrix is less than one tile, or group."""
    if isinstance(support, Transposable):
        return support.width, support.width
    return (1, support.width) if isinstance(support, Plain) else (1, 1)


def _support(target: Target, transposable: bool, solver: Solver | str) -> Support:
    if isinstance(target, float):
        return Unstructured(target)
    pattern = Pattern.parse(target)
    return Transposable(pattern, solver) if transposable else Plain(pattern)


def matches(glob: str, name: str) -> bool:
    """Whether a glob matches a parameter's full name, or that of a module around it."""
    parts = name.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[:count]), glob) for count in range(len(parts), 0, -1))

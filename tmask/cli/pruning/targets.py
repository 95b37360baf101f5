"""Which masks `tmask prune` is asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tmask.blocks.pattern import Pattern
from tmask.cli.options import make_solver
from tmask.cli.rows.prune_rows import read_patterns
from tmask.errors import InvalidProblemError

if TYPE_CHECKING:
    from tmask.nn.blockwise.blockwise_report import BlockwiseReport
    from tmask.nn.blockwise.choice import MatrixPatterns


def read_target(pattern: str, density: float | None, patterns: Path | None, plain: bool, solver: str) -> MatrixPatterns:
    """What masks to find: exactly one of three ways to say so, and no setting that would be ignored."""
    if [bool(pattern), density is not None, patterns is not None].count(True) != 1:
        raise InvalidProblemError("give one of --pattern N:M, --density SHARE and --patterns FILE")
    if solver != "auto" and (plain or density is not None):
        raise InvalidProblemError("--solver finds transposable masks; plain and unstructured ones are found by sorting")
    if density is not None:
        if plain:
            raise InvalidProblemError("--plain goes with N:M; the masks of --density have no groups")
        if not 0 < density <= 1:
            raise InvalidProblemError(f"--density {density:g} must be above 0 and at most 1")
        return float(density)
    target: Mapping[str, Pattern] | Pattern = Pattern.parse(pattern) if patterns is None else read_patterns(patterns)
    used = make_solver(solver, [])  # an unknown one is refused before the work
    if used is not None:
        for one in {target} if isinstance(target, Pattern) else {*target.values()}:
            used.check_side(one.m)
    return target


def unused_patterns(target: MatrixPatterns, report: BlockwiseReport, dense: Collection[str]) -> list[str]:
    """Names in a file of patterns that no pruned matrix has, nor one of those that were chosen to stay dense."""
    if not isinstance(target, Mapping):
        return []
    known = {row.name.partition("[")[0].removesuffix(".weight") for row in report.rows}
    known |= {name.removesuffix(".weight") for name in dense}
    return [name for name in target if name.removesuffix(".weight") not in known]

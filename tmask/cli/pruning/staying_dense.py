"""Which weights `tmask prune` leaves dense: by name, and by what they lose."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tmask.blocks.pattern import Pattern
from tmask.cli.pruning.running import ShownRun
from tmask.errors import InvalidProblemError

if TYPE_CHECKING:
    from tmask.nn.blockwise.choice import MatrixPatterns, Target
    from tmask.nn.blockwise.pruning import MatrixPruning


def left_dense(model: Path, exclude: Sequence[str], keep_dense: Sequence[str]) -> list[str]:
    """Full names of the weights that are not to be pruned.

    Raises:
        InvalidProblemError: a name or a glob that fits none.
    """
    if not (exclude or keep_dense):
        return []
    import fnmatch

    from tmask.nn.blockwise.skeleton import skeleton

    names = [name for name, parameter in skeleton(model).named_parameters() if parameter.ndim >= 2]
    chosen: dict[str, None] = {}
    for option, texts in (("--exclude", exclude), ("--keep-dense", keep_dense)):
        for text in texts:
            ends = f"*.{text}" if option == "--keep-dense" else text
            globs = (text, f"{text}.weight", ends, f"{ends}.weight")
            found = [name for name in names if any(fnmatch.fnmatchcase(name, glob) for glob in globs)]
            if not found:
                raise InvalidProblemError(f"{option} {text!r} fits no weight; one is named {names[-1]!r}")
            chosen |= dict.fromkeys(found)
    return [*chosen]


def check_share(share: float, target: MatrixPatterns) -> None:
    """Return if a share of the weights can stay dense, and the others are pruned at all; before the work.

    Raises:
        InvalidProblemError: they cannot.
    """
    if not 0 < share < 1:
        raise InvalidProblemError(f"--dense-share {share:g} must be above 0 and below 1")
    if all(_keeps_all(one) for one in (target.values() if isinstance(target, Mapping) else [target])):
        raise InvalidProblemError("--dense-share: the masks that are asked for keep every weight already")


def _keeps_all(target: Target) -> bool:
    if isinstance(target, float):
        return target == 1
    pattern = Pattern.parse(target)
    return pattern.n == pattern.m


def measure(
    model: Path,
    output: Path,
    batches: list[dict[str, Any]],
    target: MatrixPatterns,
    plain: bool,
    blocks: str,
    dense: Sequence[str],
    keep_zeros: bool,
    dtype: Any,
    device: Any,
) -> tuple[MatrixPruning, ...]:
    """What each weight loses under its own masks: a quick run, whose output is dropped."""
    from tmask.nn.blockwise.entry import prune_blocks

    trial = output.with_name(f"{output.name}.measured")
    shutil.rmtree(trial, ignore_errors=True)  # of a run that was killed when it had just measured
    with ShownRun(trial) as run:
        report = prune_blocks(
            model,
            batches,
            target,
            output=trial,
            method="wanda",
            transposable=not plain,
            goal="layer",
            by_stage=False,
            blocks=blocks,
            keep_zeros=keep_zeros,
            exclude=dense,
            dtype=dtype,
            device=device,
            progress=run.tell,
        )
    shutil.rmtree(trial)
    return report.rows

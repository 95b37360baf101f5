"""What a mask is held to, kept beside it; and the one check of a mask against that.

A mask is a buffer, and a buffer can be averaged, edited or loaded in part. Loading, exporting, baking and resuming
therefore ask whether it is still one that was found under its terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidMaskError, InvalidProblemError
from tmask.nn.mask.cutting import WHOLE, Cutting

_DENSE = Pattern(1, 1)  # in the buffer, which has no number for None
LENGTH = 6


@dataclass(frozen=True, slots=True)
class Terms:
    """Under which a mask was found.

    Args:
        target: that training ends with.
        in_force: at present; None for dense.
        cutting: into the matrices that are tiled.
        complete: whether full blocks keep exactly n in each row and column, and a dense mask everything; heuristics may
            have left some short, and zeros may be kept out.
    """

    target: Pattern
    in_force: Pattern | None = None
    cutting: Cutting = WHOLE
    complete: bool = True

    def numbers(self) -> list[int]:
        """The integers that make it again: n and m of the target, n and m in force, cutting, complete."""
        present = self.in_force or _DENSE
        return [self.target.n, self.target.m, present.n, present.m, self.cutting.number, int(self.complete)]

    @classmethod
    def of(cls, numbers: Sequence[int], name: str) -> Terms:
        """The terms behind the integers.

        Args:
            name: of the layer, for the error.
        Raises:
            InvalidProblemError: they are no terms: something has averaged or overwritten them.
        """
        try:
            n, m, present_n, present_m, cutting, complete = numbers
            target, present = Pattern(n, m), Pattern(present_n, present_m)
        # Too many or too few numbers, or an n and m that are no pattern.
        except ValueError as error:
            raise InvalidProblemError(f"layer {name!r}: {list(numbers)} are no pattern of a mask ({error})") from error
        return cls(target, None if present == _DENSE else present, Cutting.of(cutting), bool(complete))

    @torch.no_grad()
    def check(self, mask: Tensor, name: str) -> None:
        """Return if a whole mask satisfies the terms.

        Args:
            mask: (rows, cols, *kernel) bool.
            name: of the layer, for the error.
        Raises:
            InvalidMaskError: it does not; names the first row or column.
        Cost: a few bytes for each entry, where the mask is; two synchronisations.
        """
        if violation := self._violation(mask):
            raise InvalidMaskError(
                f"layer {name!r}: the mask is not the {self.in_force or 'dense'} one that was found: {violation}. "
                "Averaging the buffers of a model does that to masks: average parameters alone, and copy buffers"
            )

    def _violation(self, mask: Tensor) -> str:
        """The first break of the terms in words, or ""."""
        if self.in_force is None:
            return "" if not self.complete or bool(mask.all()) else "it prunes"
        n, m = self.in_force.n, self.in_force.m
        # Averaged terms can be numbers that make a pattern, but not of this mask.
        groups = self.cutting.groups
        if groups < 1 or mask.shape[0] % groups:
            return f"{mask.shape[0]} rows in {groups} groups"
        # A byte an entry; torch adds them up in int64, so that wide tiles cannot overflow.
        kept = mask.to(torch.uint8)
        if self.cutting.stacked:
            kept = kept.reshape(-1, *mask.shape[-2:], 1)  # (G, R, C, K)
        else:
            kept = kept.reshape(groups, mask.shape[0] // groups, mask.shape[1], -1)  # (G, R, C, K)
        return self._bad_line(kept, n, m, "row", "columns") or self._bad_line(
            kept.transpose(1, 2), n, m, "column", "rows"
        )

    def _bad_line(self, lines: Tensor, n: int, m: int, line: str, others: str) -> str:
        """The first of the lines (G, count, length, K) that keeps too many or too few, in words, or ""."""
        groups, count, length, _ = lines.shape
        padded = functional.pad(lines, (0, 0, 0, -length % m))
        sums = padded.reshape(groups, count, -(-length // m), m, -1).sum(3)  # (G, lines, ceil(length / m), K)
        bad = sums > n
        if self.complete:
            # Blocks at a ragged edge are padded with entries that nobody keeps, so they may keep fewer.
            full = slice(None), slice(count // m * m), slice(length // m)
            bad[full] |= sums[full] < n
        if not bad.any():
            return ""
        group, index, part, position = bad.nonzero()[0].tolist()
        of = "matrix" if self.cutting.stacked else "group"
        place = f" of {of} {group}" if groups > 1 else ""
        return (
            f"{line} {index}{place} keeps {int(sums[group, index, part, position])} of {others} {part * m} to "
            f"{min(part * m + m, length) - 1}"
        )

"""Find one layer's mask, with its worth, and say which layer and step an error belongs to."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import tmask
from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError, TmaskError
from tmask.judging.solution import Status
from tmask.judging.worth import Worth
from tmask.nn.mask.cutting import Cutting
from tmask.solving.solver import Solver

ScoreFn = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class FoundMask:
    """A mask for a layer, not put on yet.

    Args:
        mask: on the weight's device.
        worth: by the scores that it was found for.
        seconds: that it took in all.
        complete: whether full blocks keep exactly n in each row and column; a heuristic may leave some short.
        fingerprint: of the whole mask, where `mask` is a shard of it, or None.
    """

    mask: Tensor
    worth: Worth
    seconds: float
    complete: bool = True
    fingerprint: int | None = None


@dataclass(frozen=True, slots=True)
class MaskFinder:
    """How masks are found.

    Args:
        solver: "auto" or a solver.
        score: called with a layer's name and dense weight; gives the importance of every entry, >= 0. None for |W|.
        certify: whether the optimality gap is proven.
        keep_zeros: weights that are 0 are never kept.
        hysteresis: bonus of entries that are kept already, as a share of their scores.
    """

    solver: Solver | str = "auto"
    score: ScoreFn | None = None
    certify: bool = True
    keep_zeros: bool = False
    hysteresis: float = 0.0

    @torch.no_grad()
    def find(
        self,
        name: str,
        weight: Tensor,
        pattern: Pattern | None,
        cutting: Cutting,
        step: int,
        kept: Tensor | None = None,
    ) -> FoundMask:
        """The mask of one weight; all True where the pattern is None.

        Args:
            kept: the mask in force, which hysteresis favours; None where there is none.
        Raises:
            TmaskError: as `tmask.solve`, with step and layer in front: a NaN weight, for example.
        """
        begin = time.perf_counter()
        try:
            score = self._score(name, weight)
            if kept is not None and self.hysteresis:
                score = (weight.abs() if score is None else score) * torch.where(kept, 1 + self.hysteresis, 1.0)
            if pattern is None:
                pattern = Pattern(1, 1)  # every entry is a block of its own, and kept
            solution = tmask.solve(
                weight,
                pattern,
                self.solver,
                score=score,
                certify=self.certify,
                keep_zeros=self.keep_zeros,
                **cutting.options,
            )
        except TmaskError as error:
            raise type(error)(f"step {step}, layer {name!r}: {error}") from error
        worth = Worth(solution.objective, solution.total, solution.dual_bound)
        complete = solution.status is not Status.UNDERFILLED and not self.keep_zeros
        return FoundMask(solution.mask, worth, time.perf_counter() - begin, complete)

    def judge(self, name: str, weight: Tensor, mask: Any, pattern: Pattern, cutting: Cutting) -> FoundMask:
        """A mask from the user, checked.

        Raises:
            InvalidProblemError, InvalidMaskError: as `tmask.certify` and `tmask.check_mask`, with the layer in front.
        """
        begin = time.perf_counter()
        try:
            score = self._score(name, weight)
            as_module: dict[str, Any] = {**cutting.options, "at_most": self.keep_zeros}
            judged = tmask.certify(weight, mask, pattern, score=score, **as_module)
            tmask.check_mask(mask, pattern, **as_module)
        except TmaskError as error:
            raise type(error)(f"masks[{name!r}]: {error}") from error
        worth = Worth(judged.objective, judged.total, judged.dual_bound)
        kept = torch.as_tensor(mask, device=weight.device)
        if self.keep_zeros:
            kept = kept & (weight.detach() != 0)
        return FoundMask(kept, worth, time.perf_counter() - begin, not self.keep_zeros)

    def _score(self, name: str, weight: Tensor) -> Tensor | None:
        if self.score is None:
            return None
        score = self.score(name, weight)
        if score is None:
            raise InvalidProblemError("score: the function gave None; give the importance of every entry, >= 0")
        return score

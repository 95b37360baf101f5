"""Find masks of layers, with their worth, and say which layer and step an error belongs to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

import tmask
from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError, TmaskError
from tmask.judging.solution import Status
from tmask.judging.worth import Worth
from tmask.nn.mask.cutting import Cutting
from tmask.solving.request import Request
from tmask.solving.solver import Solver
from tmask.solving.together import go_together, solve_together

ScoreFn = Callable[[str, Tensor], Tensor]

_ALL = Pattern(1, 1)  # every entry is a block of its own, and kept


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


class Wanted(NamedTuple):
    """A weight that needs a mask: its layer, the pattern (None for all True), how it is cut, and which mask it has.

    Args:
        kept: the mask in force, which hysteresis favours; None where none is.
    """

    name: str
    weight: Tensor
    pattern: Pattern | None
    cutting: Cutting
    kept: Tensor | None = None


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
    def find_all(self, wanted: Sequence[Wanted], step: int) -> dict[str, FoundMask]:
        """The masks of several weights, by name; on one device together, which is then waited for once.

        Raises:
            TmaskError: as `find`.
        """
        requests = [self._request(one.weight, one.pattern, one.cutting) for one in wanted]
        # Scores of all layers at once would take as much memory as all weights; what is kept at zero is rare.
        scored = self.score is not None or any(one.kept is not None for one in wanted)
        alone = scored or self.keep_zeros or isinstance(self._solver, str)
        if alone or len(wanted) < 2 or not go_together(requests):
            return {one.name: self.find(*one[:4], step, one.kept) for one in wanted}
        begin = time.perf_counter()
        try:
            solutions = solve_together(requests)
        except TmaskError as error:
            place: int | None = getattr(error, "request", None)  # a solver that fails does so for all of them
            name = ", ".join(one.name for one in wanted) if place is None else wanted[place].name
            raise _of_layer(error, name, step) from error
        seconds = (time.perf_counter() - begin) / sum(weight.numel() for _, weight, *_ in wanted)
        return {
            one.name: FoundMask(
                solution.mask,
                Worth(solution.objective, solution.total, solution.dual_bound),
                seconds * one.weight.numel(),
                solution.status is not Status.UNDERFILLED,
            )
            for one, solution in zip(wanted, solutions, strict=True)
        }

    @property
    def _solver(self) -> Solver | str | None:
        """None for "auto"."""
        return None if self.solver == "auto" else self.solver

    def _request(self, weight: Tensor, pattern: Pattern | None, cutting: Cutting) -> Request:
        solver = None if isinstance(self._solver, str) else self._solver
        kept = pattern or _ALL
        return Request(weight, kept, solver, None, cutting.groups, cutting.layout, self.certify)

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
                pattern = _ALL
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
            raise _of_layer(error, name, step) from error
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


def _of_layer(error: TmaskError, name: str, step: int) -> TmaskError:
    """The same error, with step and layer in front."""
    return type(error)(f"step {step}, layer {name!r}: {error}")

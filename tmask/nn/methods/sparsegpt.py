"""SparseGPT: one sweep over the inputs, in which the weights to come make up for those that are removed.

Columns are fixed one after the other; what each loses is spread over all columns behind it by the formula of optimal
brain surgeon. A group of columns (m for N:M) gets its mask from the weights as they are by then, or all get theirs at
the start. Updates of far columns are saved up and made for a panel of columns at once.

Source: [Frantar2023], where a row of a group keeps its own n of m; [Meng2025] for transposable masks in such a sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tmask.judging.worth import Worth
from tmask.nn.methods.goal import Goal, factor_of, inverse_of
from tmask.nn.methods.method import Found, Method
from tmask.nn.methods.problem import Problem
from tmask.nn.methods.settings import choice
from tmask.nn.methods.support import Projection

_PANEL = 128


@dataclass(frozen=True, kw_only=True)
class SparseGPT(Method):
    """Scores w^2 / [H'^-1]_jj: by how much the error rises at least if this weight alone is removed.

    Args:
        masks: "as-it-goes", from weights already updated, or "up-front", from the dense ones.

    Cost: C^3 for the inverse, R C^2 for the sweep, and as it goes C / m calls of the solver.
    """

    masks: Literal["as-it-goes", "up-front"] = "as-it-goes"

    name: ClassVar[str] = "sparsegpt"

    def __post_init__(self) -> None:
        Method.__post_init__(self)
        choice("masks", self.masks, ("as-it-goes", "up-front"))

    def _prune(self, problem: Problem, goal: Goal) -> Found:
        inverse = inverse_of(goal.hessian.double())
        # Row j of this factor is row j of the inverse once the columns before j are fixed, over its diagonal's root.
        upper = factor_of(inverse).T.to(goal.weight.dtype)
        width, columns = problem.support.width, goal.weight.shape[1]
        parts = [slice(start, min(start + width, columns)) for start in range(0, columns, width)]
        if self.masks == "up-front":
            found = problem.support.project(goal.weight.square() / inverse.diagonal().to(goal.weight.dtype))
            swept = sweep(goal.weight, upper, parts, lambda _, part: found.mask[:, part])
            return Found(found.mask, swept, found.worth, found.solver)
        mask = torch.empty_like(goal.weight, dtype=torch.bool)
        found_groups: list[Projection] = []

        def choose(weight: Tensor, part: slice) -> Tensor:
            scores = (weight / upper.diagonal()[part]).square()
            found_groups.append(problem.support.part(part).project(scores))
            mask[:, part] = found_groups[-1].mask
            return found_groups[-1].mask

        swept = sweep(goal.weight, upper, parts, choose)
        solvers = dict.fromkeys(group.solver for group in found_groups)
        return Found(mask, swept, Worth.sum(group.worth for group in found_groups), "+".join(solvers))


def sweep(weight: Tensor, upper: Tensor, parts: Sequence[slice], choose: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """The swept weights (R, C), to be read on the mask alone.

    Args:
        weight: (R, C) to begin with.
        upper: (C, C) Cholesky factor of the inverse.
        parts: groups of columns, one behind the other, that have their mask at once.
        choose: the mask (R, width) of a group, from its weights by then and where it stands.
    """
    # Columns as rows: each is read and written as a whole, many times. A copy even of one row, which is contiguous.
    left = weight.T.clone(memory_format=torch.contiguous_format)  # (C, R)
    for panel in _panels(parts):
        begin, end = panel[0].start, panel[-1].stop
        lost = torch.zeros_like(left[begin:end])
        for part in panel:
            start, stop = part.start, part.stop
            kept = choose(left[part].T.contiguous(), part).T
            for j in range(start, stop):
                row = lost[j - begin]
                torch.div(left[j], upper[j, j], out=row).masked_fill_(kept[j - start], 0)
                if j + 1 < stop:  # at once, since the next column's removed weights depend on it
                    left[j + 1 : stop].addr_(upper[j, j + 1 : stop], row, alpha=-1)
            left[stop:end].addmm_(upper[start:stop, stop:end].T, lost[start - begin : stop - begin], alpha=-1)
        left[end:].addmm_(upper[begin:end, end:].T, lost, alpha=-1)
    return left.T


def _panels(parts: Sequence[slice]) -> Iterator[list[slice]]:
    """Groups that stand side by side, of as many columns as a panel has, or one group that is wider."""
    panel: list[slice] = []
    for part in parts:
        if panel and part.stop - panel[0].start > _PANEL:
            yield panel
            panel = []
        panel.append(part)
    if panel:
        yield panel

"""A word for whoever forgets to tell a Sparsifier of the optimizer's steps: its masks would never be renewed."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from tmask.nn.distributed.fingerprint import fingerprint
from tmask.nn.mask.shards import local_part
from tmask.nn.training.schedules import Schedule


class Reminder:
    """Counts backward passes through one dense weight until a step is counted, and warns once where one is overdue.

    Args:
        weight: that is trained.
        schedule: that says after which step masks are to be renewed.

    A pass that only adds to the gradients changes no weight, and is no step that was forgotten.
    """

    def __init__(self, weight: Tensor, schedule: Schedule) -> None:
        self._schedule = schedule
        self._passes = 0
        self._told = False
        self._overdue = False
        self._before = fingerprint(local_part(weight))
        self._hook = weight.register_post_accumulate_grad_hook(self._count)  # type: ignore[no-untyped-call]

    def end(self) -> None:
        """A step was counted, or an optimizer is watched: nothing is forgotten."""
        self._hook.remove()
        self._told = True

    def tell(self, when: str) -> None:
        """Warn, if it was not done before, where a renewal is overdue.

        Args:
            when: what is being done.
        """
        if self._overdue and not self._told:
            self._told = True
            warnings.warn(
                f"{when}: weights were trained for {self._passes} backward passes, and the Sparsifier was told of no "
                f"step, so that {self._schedule} has never renewed the masks. Give sparsify the optimizer (optimizer=, "
                "or sparsifier.watch), or call sparsifier.step() after each of its steps",
                stacklevel=2,
            )

    def _count(self, weight: Any) -> None:
        self._passes += 1
        # A pass comes before its step: at the pass behind step k, k + 1 passes were made.
        if not self._told and self._schedule.renews_at(self._passes - 1) and self._passes > 1:
            self._overdue = fingerprint(local_part(weight)) != self._before
            self.tell("training")

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copy of the model is another training, of which nothing is known."""
        return None

"""A weight that has, or will have, a mask: who owns it, under which pattern, on which backend."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tmask.errors import InvalidMaskError, InvalidProblemError, TmaskError
from tmask.nn import backends
from tmask.nn.finding import FoundMask
from tmask.nn.parametrization import Gradient, Masked, is_sharded
from tmask.nn.registration import masked_of, put_on, steps_of, take_off
from tmask.nn.report import Score
from tmask.nn.terms import Terms
from tmask.pattern import Pattern


@dataclass(frozen=True, slots=True)
class Owner:
    """A module, the name of its tensor, and that tensor's full name in the model."""

    module: nn.Module = field(repr=False)
    tensor: str
    name: str


@dataclass(eq=False)
class SparseLayer:
    """One weight under a mask, with every module that shares it.

    Args:
        owners: modules that hold the weight; more than one if it is tied.
        pattern: that training ends with.
        groups: of the tiling; no block crosses a group.
        requested: the backend that the user wants, perhaps "auto".
        backend: what multiplies; `reason` says why, where another one was conceivable.
        score, step: of the mask in force, and when it was found; None while there is none.
        in_force: the present pattern; None while dense, before the schedule begins and in its dense tail.
    """

    owners: tuple[Owner, ...]
    pattern: Pattern
    groups: int = 1
    requested: str = backends.MASKED
    backend: str = backends.MASKED
    reason: str = ""
    score: Score | None = None
    step: int | None = None
    in_force: Pattern | None = None
    _masked: Masked | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Full name of the parameter, where the model lists it first."""
        return self.owners[0].name

    @property
    def masked(self) -> Masked:
        """The parametrization.

        Raises:
            InvalidProblemError: it was taken off, by `export` for example.
        """
        if self._masked is None or not all(self._holds(owner) for owner in self.owners):
            raise InvalidProblemError(
                f"layer {self.name!r} has this mask no more; after export, end with sparsifier.remove()"
            )
        return self._masked

    @property
    def weight(self) -> Tensor:
        """The dense master weight."""
        owner = self.owners[0]
        if masked_of(owner.module, owner.tensor) is None:
            return getattr(owner.module, owner.tensor)  # type: ignore[no-any-return]
        return steps_of(owner.module, owner.tensor).original

    def choose_backend(self) -> None:
        """Take the backend that every owner can run, on the device that the weight is on now.

        Raises:
            InvalidProblemError: the one that was asked for cannot run it; names the layer.
        """
        for owner in self.owners:
            try:
                self.backend, self.reason = backends.choose_backend(
                    owner.module, owner.tensor, self.weight, self.pattern, self.requested
                )
            except TmaskError as error:
                raise type(error)(f"layer {owner.name!r}: {error}") from error
            if self.backend == backends.MASKED:
                break  # one owner that cannot be packed keeps the weight's other owners masked, for its reason

    def prepare(self, pattern: Pattern | None, complete: bool) -> None:
        """See whether the backend takes a mask before it is put on; under "auto" go on masked where it does not.

        Args:
            complete: whether the mask keeps exactly n in every row and column of full blocks.
        Raises:
            InvalidMaskError: it does not, and was asked for by name.
        """
        if self.backend != backends.SEMI_STRUCTURED or pattern != self.pattern:
            return
        problem = "" if complete else "its mask leaves rows or columns short, and kernels need exactly 2 of every 4"
        problem = problem or next(filter(None, (backends.misuse(o.module, o.tensor) for o in self.owners)), "")
        if problem and self.requested != backends.AUTO:
            raise InvalidMaskError(
                f'layer {self.name!r}: {problem}; use backend "auto" or "masked", or a solver that fills its masks'
            )
        if problem:
            self.backend, self.reason = backends.MASKED, problem
            for owner in self.owners:
                backends.release(owner.module)

    def put_mask_on(self, gradient: Gradient) -> None:
        """Register one parametrization, all True, with every owner."""
        self._masked = Masked(self.weight, Terms(self.pattern, groups=self.groups), gradient)
        for owner in self.owners:
            put_on(owner.module, owner.tensor, self._masked)

    def follow_shards(self) -> bool:
        """Cut the mask like the weight if `fully_shard` has cut it since; returns whether it did.

        Raises:
            InvalidProblemError: the weight was cut in another way, or its packed copies would be wrong.
        """
        if self._masked is None:
            return False
        weight = self.weight
        if weight.shape != self._masked.mask.shape:
            raise InvalidProblemError(
                f"layer {self.name!r}: its weight has become {tuple(weight.shape)}, its mask is "
                f"{tuple(self._masked.mask.shape)}; of FSDP, only fully_shard is supported"
            )
        if is_sharded(weight) and self.backend != backends.MASKED:
            raise InvalidProblemError(
                f"layer {self.name!r}: backend {self.backend!r} packs whole weights, and fully_shard has cut this one; "
                'call sparsify with backend="masked"'
            )
        return self._masked.follow(weight)

    def set_mask(self, found: FoundMask, pattern: Pattern | None, step: int) -> int:
        """Replace the mask in place; returns how many of its bits changed."""
        masked = self.masked
        changed = (masked.mask != found.mask).sum()
        flips = int(changed.full_tensor() if is_sharded(changed) else changed)  # type: ignore[attr-defined]
        masked.mask.copy_(found.mask)
        masked.terms.copy_(torch.tensor(Terms(self.pattern, pattern, self.groups, found.complete).numbers()))
        self.in_force, self.score, self.step = pattern, found.score, step
        self.refresh()
        return flips

    def refresh(self) -> None:
        """Bring the backend's own copy of the weight up to date, after the weight or the mask has changed.

        Raises:
            TmaskError: the backend refuses the mask, such as one of a heuristic that left rows short.
        """
        for owner in self.owners:
            try:
                backends.update(owner.module, self.backend, complete=self.in_force == self.pattern)
            except TmaskError as error:
                raise type(error)(f"layer {owner.name!r}: {error}") from error

    def remove(self) -> None:
        """Leave the dense master weight as a plain parameter. A mask that another Sparsifier has put on stays."""
        for owner in self.owners:
            if self._holds(owner):
                backends.release(owner.module)
                take_off(owner.module, owner.tensor)

    def _holds(self, owner: Owner) -> bool:
        return self._masked is not None and masked_of(owner.module, owner.tensor) is self._masked

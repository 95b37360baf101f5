"""A weight that has, or will have, a mask: who owns it, under which pattern, on which backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError, TmaskError
from tmask.judging.worth import Worth
from tmask.nn.distributed.fingerprint import fingerprint
from tmask.nn.layers.finding import FoundMask
from tmask.nn.layers.renewals import LayerReport
from tmask.nn.mask.cutting import WHOLE, Cutting
from tmask.nn.mask.gradient import Gradient
from tmask.nn.mask.masking import apply_mask
from tmask.nn.mask.parametrization import Masked
from tmask.nn.mask.registration import check_alone, masked_of, master_of, put_on, take_off
from tmask.nn.mask.shards import is_sharded, local_part
from tmask.nn.mask.stamps import stamp_of
from tmask.nn.mask.terms import Terms
from tmask.nn.packing import backends
from tmask.nn.packing.first_batch import FirstBatch, being_captured

MaskStamp = tuple[int, int, int]


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
        cutting: into the matrices that are tiled.
        requested: the backend that the user wants, perhaps "auto".
        tokens, graphs: for which "auto" measures: in a batch (None: as its first one turns out to be), and whether in
            a CUDA graph.
        backend: what multiplies; `reason` says why, where another one was conceivable.
        worth, step: of the mask in force, and when it was found; None while there is none.
        in_force: the present pattern; None while dense, before the schedule begins and in its dense tail.
    """

    owners: tuple[Owner, ...]
    pattern: Pattern
    cutting: Cutting = WHOLE
    requested: str = backends.MASKED
    tokens: int | None = None
    graphs: bool = False
    backend: str = backends.MASKED
    reason: str = ""
    worth: Worth | None = None
    step: int | None = None
    in_force: Pattern | None = None
    _masked: Masked | None = field(default=None, repr=False)
    _print: tuple[MaskStamp, int] | None = field(default=None, repr=False)
    _first_batch: FirstBatch | None = field(default=None, repr=False)
    _on_first_batch: Callable[[SparseLayer, int], None] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Full name of the parameter, where the model lists it first."""
        return self.owners[0].name

    @property
    def groups(self) -> int:
        """Of the tiling; no block crosses a group."""
        return self.cutting.groups

    @property
    def masked(self) -> Masked:
        """The parametrization.

        Raises:
            InvalidProblemError: as `check_held`.
        """
        self.check_held()
        assert self._masked is not None
        return self._masked

    def mask_or_none(self) -> Tensor | None:
        """The mask where it is on, to look at."""
        return None if self._masked is None else self._masked.mask

    @property
    def reminder(self) -> Any:
        """Of steps that nobody tells of, which stands with the mask, also where that is on no more; or None."""
        return None if self._masked is None else self._masked.reminder

    @reminder.setter
    def reminder(self, reminder: Any) -> None:
        if self._masked is not None:
            self._masked.reminder = reminder

    def check_held(self) -> None:
        """Return if the mask is on.

        Raises:
            InvalidProblemError: it was taken off, by `export` for example.
        """
        if self._masked is None or not all(self._holds(owner) for owner in self.owners):
            raise InvalidProblemError(
                f"layer {self.name!r} has this mask no more; after export, end with sparsifier.remove(), and call "
                "sparsify anew to train on under masks"
            )

    @property
    def weight(self) -> Tensor:
        """The dense master weight."""
        owner = self.owners[0]
        if masked_of(owner.module, owner.tensor) is None:
            return getattr(owner.module, owner.tensor)  # type: ignore[no-any-return]
        return master_of(owner.module, owner.tensor)  # type: ignore[no-any-return]

    def put_mask_on(self, gradient: Gradient, keep_zeros: bool = False, smoothing: float = 0.0) -> None:
        """Register one parametrization, all True, with every owner."""
        terms = Terms(self.pattern, cutting=self.cutting)
        self._masked = Masked(self.weight, terms, gradient, keep_zeros, smoothing)
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
        if not is_sharded(weight) or is_sharded(self._masked.mask):
            return False
        known = self.fingerprint()
        self._masked.follow(weight)
        self.note(known)
        return True

    def fingerprint(self) -> int | None:
        """That of the whole mask; None for shards that something else than a renewal has changed.

        It costs nothing while the mask stays, and no rank has to ask another.
        """
        if self._print is None or self._print[0] != self._stamp():
            if is_sharded(self.masked.mask):
                return None
            self._print = self._stamp(), fingerprint(self.masked.mask)
        return self._print[1]

    def note(self, known: int | None) -> None:
        """Take a fingerprint for that of the mask as it is now, where one is known."""
        if known is not None:
            self._print = self._stamp(), known

    def set_mask(self, found: FoundMask, pattern: Pattern | None, step: int) -> Tensor:
        """Replace the mask in place; returns how many of its bits changed, () on the mask's device, not fetched yet."""
        masked = self.masked
        flips = (masked.mask != found.mask).sum()
        masked.mask.copy_(found.mask)
        known = found.complete and pattern == self.pattern and not is_sharded(masked.mask)
        masked.complete_at = stamp_of(masked.mask) if known else None
        terms = torch.tensor(Terms(self.pattern, pattern, self.cutting, found.complete).numbers(), device="cpu")
        # The source is copied away before this returns; without the flag, all that the device has to do is waited for.
        masked.terms.copy_(terms, non_blocking=True)
        masked.smooth(self.weight.detach(), pattern, self.cutting, anew=pattern != self.in_force)
        self.note(found.fingerprint)
        self.in_force, self.worth, self.step = pattern, found.worth, step
        self.refresh()
        return flips

    def refresh(self) -> None:
        """Bring the backend's own copy of the weight up to date, after the weight or the mask has changed.

        Raises:
            TmaskError: the backend refuses the mask, such as one of a heuristic that left rows short.
        """
        self._tell_of_first_batch()
        for owner in self.owners:
            try:
                backends.update(owner.module, self.backend, complete=self.in_force == self.pattern)
            except TmaskError as error:
                raise type(error)(f"layer {owner.name!r}: {error}") from error

    @torch.no_grad()
    def bake(self) -> None:
        """Make the dense master weight what multiplies under the mask."""
        weight, masked = local_part(self.weight), self.masked
        # A shard and its mask are cut alike, and shards have hard masks alone.
        weight.copy_(apply_mask(weight, local_part(masked.mask)) if is_sharded(self.weight) else masked.values(weight))

    def observe(self, on_first_batch: Callable[[SparseLayer, int], None]) -> None:
        """Call this with the tokens of the first batch, at the first `refresh` after it."""
        self._first_batch, self._on_first_batch = FirstBatch(self.owners[0].module), on_first_batch

    def end_observation(self) -> None:
        """Look at batches no more."""
        if self._first_batch is not None:
            self._first_batch.end()
        self._first_batch = self._on_first_batch = None

    def _tell_of_first_batch(self) -> None:
        tokens = None if self._first_batch is None else self._first_batch.tokens
        # A capture holds what was chosen before it.
        if tokens is not None and self._on_first_batch is not None and not being_captured():
            call = self._on_first_batch
            self.end_observation()
            call(self, tokens)

    def release(self) -> None:
        """Multiply with the dense masked weight, until `refresh` with another backend."""
        for owner in self.owners:
            backends.release(owner.module)

    def check_removable(self) -> None:
        """Return if `remove` can do its work; raise InvalidProblemError if not."""
        for owner in self.owners:
            if self._holds(owner):
                check_alone(owner.module, owner.tensor)

    def remove(self) -> None:
        """Leave the dense master weight as a plain parameter. A mask that another Sparsifier has put on stays."""
        self.end_observation()
        for owner in self.owners:
            if self._holds(owner):
                backends.release(owner.module)
                take_off(owner.module, owner.tensor)

    def row(self) -> LayerReport:
        """Its row in a report."""
        return LayerReport(
            layer=self.name,
            shape=tuple(self.weight.shape),
            pattern=self.pattern,
            step=self.step,
            retained=None if self.worth is None else self.worth.retained,
            gap=None if self.worth is None else self.worth.optimality_gap,
            backend=self.backend,
            reason="; ".join(filter(None, [self.cutting.in_words(self.weight.shape), self.reason])),
            tied=tuple(owner.name for owner in self.owners[1:]),
        )

    def _stamp(self) -> MaskStamp:
        """Changes when the mask does: operators count in the DTensor, what loads checkpoints also in its part."""
        mask = self.masked.mask
        part = local_part(mask)
        return part.data_ptr(), part._version, mask._version

    def _holds(self, owner: Owner) -> bool:
        return self._masked is not None and masked_of(owner.module, owner.tensor) is self._masked

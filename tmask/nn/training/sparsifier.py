"""What `sparsify` returns: it counts optimizer steps, renews masks by the schedule, and reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from tmask.errors import InvalidProblemError
from tmask.nn.distributed.attendance import Alone
from tmask.nn.distributed.ranks import Ranks, joining, together
from tmask.nn.layers.finding import MaskFinder
from tmask.nn.layers.layer import SparseLayer
from tmask.nn.layers.renewals import LayerReport, Renewal, Report
from tmask.nn.layers.settling import choose_anew
from tmask.nn.mask.shards import is_sharded, local_part
from tmask.nn.training.checkpoint import capture, restore
from tmask.nn.training.decay import MaskedDecay
from tmask.nn.training.finite import check_finite, looks_at
from tmask.nn.training.reminder import Reminder
from tmask.nn.training.renewing import find_masks, put_on
from tmask.nn.training.schedules import Frozen, Schedule
from tmask.nn.training.watching import Watch, check_optimizers
from tmask.showing.cards import Card, Shown
from tmask.showing.mask_pictures import mask_svg
from tmask.showing.numbers import percent


class Sparsifier(Shown):
    """Keeps the masks of a model up to date while it trains.

    Either an optimizer is watched (`sparsify(..., optimizer=...)` or `watch`), which does not count the steps that a
    GradScaler skips; or the user calls `step()` after every optimizer step that was taken.

    A deep copy, together with its model, watches nothing: call `watch` with the optimizer of the copy.

    Attributes:
        layers: every weight under a mask.
        steps: optimizer steps so far.
        last_renewal: the figures of the latest one, or None.
    """

    def __init__(
        self,
        layers: list[SparseLayer],
        skipped: list[LayerReport],
        finder: MaskFinder,
        schedule: Schedule,
        decay: MaskedDecay | None = None,
        on_renewal: Callable[[Renewal], object] | None = None,
        distributed: Any = None,
        check_finite_every: int | None = None,
        smoothing: float = 0.0,
    ) -> None:
        self.layers = tuple(layers)
        self.schedule = schedule
        self.steps = 0
        self.last_renewal: Renewal | None = None
        self._skipped = tuple(skipped)
        self._finder = finder
        self._decay = decay
        self._on_renewal = on_renewal
        self._distributed = distributed
        self._check_finite_every = check_finite_every
        self._smoothing = smoothing
        self._followers: list[Callable[[int], object]] = []
        # Whether the decay has acted ahead of the coming step: a step without it would go unnoticed.
        self._decayed = False
        self._watch: Watch | None = None
        self.alone: Alone | None = None  # where others might wait for this process

    def start(self, masks: Mapping[str, Any] | None = None) -> None:
        """Put masks on the layers, those given or those that the schedule wants before the first step."""
        for layer in self.layers:
            layer.put_mask_on(self.schedule.gradient, self._finder.keep_zeros, self._smoothing)
        # Zeros that are to stay are kept out of a dense phase too.
        if self.schedule.renews_at(0) or self._finder.keep_zeros:
            self._renew(masks or {})
        trained = [layer.weight for layer in self.layers if layer.weight.requires_grad]
        # A schedule without renewals to come misses none.
        if trained and not isinstance(self.schedule, Frozen):
            reminder = Reminder(trained[0], self.schedule)
            for layer in self.layers:
                layer.reminder = reminder

    def watch(self, *optimizers: Optimizer) -> None:
        """Follow an optimizer by hooks: `step()` is then called after each of its steps.

        Several, which share the weights between them, are followed together: a step counts once all have stepped.
        Backend "auto" is chosen anew, for the device that the model is on by now.

        Raises:
            InvalidProblemError: they do not hold a weight that has a mask, one is watched already, or the masks were
                taken off.
        """
        if self.alone is not None:
            self.alone.check()
        with together(Ranks.of(self._distributed)):
            if self._watch is not None:
                raise InvalidProblemError("an optimizer is watched already; one Sparsifier follows one optimizer")
            self._follow_shards()
            plain = check_optimizers(optimizers, self.layers)
            for layer in self.layers:
                choose_anew(layer)
        # Closures are wrapped only where the decay has to act between them and the step.
        self._watch = Watch(plain, self._ahead, self._step, self._decay is not None)

    def follow(self, follower: Callable[[int], object]) -> None:
        """Call a function with the count of steps: now, after every step, and when a state was loaded."""
        self._followers.append(follower)
        follower(self.steps)

    def unwatch(self) -> None:
        """Take the hooks off the optimizer, if one is watched."""
        if self._watch is not None:
            self._watch.end()
        self._watch = None

    def step(self) -> Renewal | None:
        """Count an optimizer step, and renew masks where the schedule says so. Call it right after the optimizer's.

        Returns:
            The figures of the renewal, or None.
        Raises:
            InvalidProblemError: an optimizer is watched, which calls it already; a weight is NaN (names layer and
                step).
        """
        if self._watch is not None:
            raise InvalidProblemError("an optimizer is watched and counts its steps itself; do not call step()")
        if self._decay is not None and not self._decayed:
            raise InvalidProblemError(
                "the decay of masked weights acts before the optimizer's step: call before_step(optimizer) there, or "
                "let the Sparsifier watch the optimizer"
            )
        return self._step()

    @property
    def ranks(self) -> Ranks | None:
        """The processes that train the model together now, or None."""
        return Ranks.of(self._distributed)

    def metrics(self) -> dict[str, float]:
        """flip_rate, retained, gap, seconds and step of the latest renewal, overall and per layer.

        Empty before the first one, and in a resumed run before its first one. The first masks flip every bit that they
        prune: flip_rate begins at 1 - n / m.
        """
        return {} if self.last_renewal is None else self.last_renewal.metrics()

    def report(self) -> Report:
        """A row for every weight of two or more axes: masked, or skipped and why. Its text is a table."""
        return Report([*(layer.row() for layer in self.layers), *self._skipped])

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs besides the model's and the optimizer's state, in plain types.

        The masks are not in it: they are buffers of the model and travel with its state.
        """
        self._follow_shards()
        order = None if self._watch is None else self._watch.order(self.layers)
        return capture(self.steps, self.schedule, self.layers, order)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken. Load the states of model and optimizer first; all ranks must call it.

        Raises:
            InvalidProblemError: the state belongs to other layers, patterns, another schedule or another step than the
                model's; the optimizer's parameters are in another order.
            InvalidMaskError: the model's state has masks that are none.
            RanksDifferError: ranks have loaded different masks.
        """
        ranks = Ranks.of(self._distributed)
        with joining(ranks):
            self._follow_shards()
            watch = self._watch
            # torch goes by the order only where it has loaded states; a fresh optimizer may have any.
            order = watch.order(self.layers) if watch is not None and watch.has_state else None
            self.steps = restore(state, self.schedule, self.layers, order, ranks)
            self._tell()
        self.last_renewal = None  # its figures are those of the masks that the loaded ones have replaced

    def remove(self) -> None:
        """Undo sparsify: hooks and masks off, the dense master weights are the layers' parameters again.

        After `tmask.nn.export` it only takes the hooks off: the exported weights stay masked.

        Raises:
            InvalidProblemError: a mask cannot come off; all of them are then on, and an optimizer is watched as before.
        """
        # All or none, and in reverse, as in `export`.
        for layer in self.layers:
            layer.check_removable()
        self.unwatch()
        if (reminder := self.layers[0].reminder) is not None:
            reminder.tell("the end of training")
        self._forget()
        for layer in reversed(self.layers):
            layer.remove()

    def _forget(self) -> None:
        """Steps are counted: nobody has to be reminded."""
        if (reminder := self.layers[0].reminder) is not None:
            reminder.end()
            for layer in self.layers:
                layer.reminder = None

    def before_step(self, optimizer: Optimizer) -> None:
        """Apply the decay of masked weights, where there is one; a watched optimizer calls it by itself.

        Call it once per optimizer step, when its gradients are complete, unscaled and clipped.
        """
        self._ahead(optimizer, False)

    def _ahead(self, optimizer: Optimizer, again: bool) -> None:
        ranks = self._ranks_at(self.steps + 1)
        try:
            self._prepare(optimizer, again)
        except Exception as error:
            # All ranks meet after this step, and one that fails ahead of it meets them there.
            if ranks is not None:
                ranks.check_none_failed(error, self._device)
            raise

    def _prepare(self, optimizer: Optimizer, again: bool) -> None:
        for layer in self.layers:
            layer.check_held()  # before the optimizer brings pruned weights of an exported model back
        self._forget()
        if self._follow_shards() and self._watch is not None:
            raise InvalidProblemError(
                "fully_shard has replaced the parameters after their optimizer was made; make the optimizer after it, "
                "and call watch(optimizer) then"
            )
        if self._decay is not None:
            pairs = ((layer.weight, layer.masked.mask) for layer in self.layers)
            self._decay.apply(pairs, optimizer, again=again)
            self._decayed = True

    def _step(self) -> Renewal | None:
        ranks = self._ranks_at(self.steps + 1)
        with joining(ranks):
            error = None
            try:
                self._count()
            # Even one rank's: under DDP weights are alike, and a rank where they are not must not leave the others
            # waiting, in this exchange or in the gradients' next one.
            except Exception as caught:
                if ranks is None:
                    raise
                error = caught
            if ranks is not None:
                ranks.check_none_failed(error, self._device)
            if self.schedule.renews_at(self.steps):
                return self._renew({})
            # A renewal has packed the new weights already, with their new masks.
            with torch.no_grad():
                for layer in self.layers:
                    layer.refresh()
            return None

    def _ranks_at(self, step: int) -> Ranks | None:
        """The ranks, where all of them meet after a step; decided by nothing that could differ among them."""
        if self.alone is not None:
            self.alone.check()
        meets = self.schedule.renews_at(step) or looks_at(self.layers, step, self._check_finite_every)
        return Ranks.of(self._distributed) if meets else None

    @property
    def _device(self) -> torch.device:
        return local_part(self.layers[0].weight).device

    def _count(self) -> None:
        # Again, since nothing was called ahead of the step where no optimizer is watched.
        for layer in self.layers:
            layer.check_held()
        self._follow_shards()
        self._forget()
        self.steps += 1
        self._tell()
        self._decayed = False
        if looks_at(self.layers, self.steps, self._check_finite_every):
            check_finite(self.layers, self.steps)

    def _tell(self) -> None:
        for follower in self._followers:
            follower(self.steps)

    @torch.no_grad()
    def _renew(self, given: Mapping[str, Any]) -> Renewal:
        begin = time.perf_counter()
        if self.schedule.bakes_at(self.steps):
            for layer in self.layers:
                layer.bake()
        patterns = {layer.name: self.schedule.pattern_at(self.steps, layer.pattern) for layer in self.layers}
        found = find_masks(self.layers, self._finder, patterns, given, self.steps, self._distributed)
        ranks = Ranks.of(self._distributed)
        rows = put_on(self.layers, found, patterns, self.steps, ranks)
        self.last_renewal = Renewal(self.steps, rows, time.perf_counter() - begin)
        if self._on_renewal is not None:
            # A logger that fails on the one rank that logs must not leave the others in the next renewal.
            with together(ranks):
                self._on_renewal(self.last_renewal)
        return self.last_renewal

    def __repr__(self) -> str:
        return (
            f"<Sparsifier: {len(self.layers)} weights under masks, {len(self._skipped)} skipped, {self.schedule}, "
            f"step {self.steps}>"
        )

    def card(self) -> Card:
        """What a notebook shows: where it stands, its report, and a corner of the first mask."""
        renewal = self.last_renewal
        facts = {
            "step": str(self.steps),
            "schedule": str(self.schedule),
            "flip rate": percent(None if renewal is None else renewal.flip_rate),
            "retained": percent(None if renewal is None else renewal.worth.retained),
        }
        return Card("Sparse training", facts, self.report().card().rows, self._pictures())

    def _pictures(self) -> list[str]:
        # After `export` masks are off, and a shard of a mask is no picture of it.
        for layer in self.layers[:1]:
            mask = layer.mask_or_none()
            if mask is not None and not is_sharded(mask):
                return [mask_svg(mask, layer.pattern.m)]
        return []

    def __getstate__(self) -> dict[str, Any]:
        # Copies of an optimizer have no hooks.
        return {**vars(self), "_watch": None}

    def _follow_shards(self) -> bool:
        """Cut masks like weights that `fully_shard` has cut since; returns whether any was."""
        # A list, and no generator: `any` would stop at the first layer, and leave the others' masks whole.
        return any([layer.follow_shards() for layer in self.layers])

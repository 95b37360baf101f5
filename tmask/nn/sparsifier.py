"""What `sparsify` returns: it counts optimizer steps, renews masks by the schedule, and reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from tmask.errors import InvalidProblemError
from tmask.nn.checkpoint import capture, restore
from tmask.nn.decay import MaskedDecay, learning_rates
from tmask.nn.finding import MaskFinder
from tmask.nn.layer import SparseLayer
from tmask.nn.renewing import find_masks
from tmask.nn.report import LayerRenewal, LayerReport, Renewal, Report
from tmask.nn.schedules import Schedule


class Sparsifier:
    """Keeps the masks of a model up to date while it trains.

    Either an optimizer is watched (`sparsify(..., optimizer=...)` or `watch`), or the user calls `step()` after every
    optimizer step. A step that a GradScaler skips does not count.

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
        self._decayed = False
        self._hooks: list[Any] = []

    def start(self, masks: Mapping[str, Any] | None = None) -> None:
        """Put masks on the layers, those given or those that the schedule wants before the first step."""
        for layer in self.layers:
            layer.put_mask_on(self.schedule.gradient)
        if self.schedule.renews_at(0):
            self._renew(masks or {})

    def watch(self, optimizer: Optimizer) -> None:
        """Follow an optimizer by hooks: `step()` is then called after each of its steps.

        Raises:
            InvalidProblemError: it does not hold a weight that has a mask, or one is watched already.
        """
        if self._hooks:
            raise InvalidProblemError("an optimizer is watched already; one Sparsifier follows one optimizer")
        self._follow_shards()
        held = learning_rates(optimizer)
        missing = [layer.name for layer in self.layers if layer.weight.requires_grad and id(layer.weight) not in held]
        if missing:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise InvalidProblemError(
                f"the optimizer does not hold {len(missing)} of the {len(self.layers)} weights with a mask ({shown}); "
                "make it from the parameters of this model, or exclude these layers"
            )
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def unwatch(self) -> None:
        """Take the hooks off the optimizer, if one is watched."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def step(self) -> Renewal | None:
        """Count an optimizer step, and renew masks where the schedule says so. Call it right after the optimizer's.

        Returns:
            The figures of the renewal, or None.
        Raises:
            InvalidProblemError: an optimizer is watched, which calls it already; a weight is NaN (names layer and
                step).
        """
        if self._hooks:
            raise InvalidProblemError("an optimizer is watched and counts its steps itself; do not call step()")
        if self._decay is not None and not self._decayed:
            raise InvalidProblemError(
                "the decay of masked weights acts before the optimizer's step: call before_step(optimizer) there, or "
                "let the Sparsifier watch the optimizer"
            )
        return self._step()

    def metrics(self) -> dict[str, float]:
        """flip_rate, retained, gap, seconds and step of the latest renewal, overall and per layer; empty before it."""
        return {} if self.last_renewal is None else self.last_renewal.metrics()

    def report(self) -> Report:
        """A row for every weight of two or more axes: masked, or skipped and why. Its text is a table."""
        return Report([*(_row(layer) for layer in self.layers), *self._skipped])

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs besides the model's and the optimizer's state, in plain types.

        The masks are not in it: they are buffers of the model and travel with its state.
        """
        self._follow_shards()
        return capture(self.steps, self.schedule, self.layers)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken. Load the model's state first.

        Raises:
            InvalidProblemError: the state belongs to other layers, patterns or another schedule.
        """
        self._follow_shards()
        self.steps = restore(state, self.schedule, self.layers)

    def remove(self) -> None:
        """Undo sparsify: hooks and masks off, the dense master weights are the layers' parameters again.

        After `tmask.nn.export` it only takes the hooks off: the exported weights stay masked.
        """
        self.unwatch()
        for layer in reversed(self.layers):
            layer.remove()

    def before_step(self, optimizer: Optimizer) -> None:
        """Apply the decay of masked weights, where there is one; a watched optimizer calls it by itself.

        Call it once per optimizer step, when its gradients are complete, unscaled and clipped.
        """
        if self._follow_shards() and self._hooks:
            raise InvalidProblemError(
                "fully_shard has replaced the parameters after their optimizer was made; make the optimizer after it, "
                "and call watch(optimizer) then"
            )
        if self._decay is not None:
            self._decay.apply(((layer.weight, layer.masked.mask) for layer in self.layers), optimizer)
            self._decayed = True

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """With a closure, gradients exist only once it has run: the decay follows it."""
        _, *rest = args
        closure = rest[0] if rest else kwargs.get("closure")
        if closure is None or self._decay is None:
            self.before_step(optimizer)
            return None

        def decayed() -> Any:
            loss = closure()
            self.before_step(optimizer)
            return loss

        return (optimizer, decayed, *rest[1:]), {k: v for k, v in kwargs.items() if k != "closure"}

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        overflow = getattr(optimizer, "found_inf", None)  # a fused optimizer under a GradScaler skips by itself
        if overflow is None or not overflow.item():
            self._step()

    def _step(self) -> Renewal | None:
        self._follow_shards()
        self.steps += 1
        self._decayed = False
        if self.schedule.renews_at(self.steps):
            return self._renew({})
        for layer in self.layers:
            layer.refresh()
        return None

    @torch.no_grad()
    def _renew(self, given: Mapping[str, Any]) -> Renewal:
        begin = time.perf_counter()
        patterns = {layer.name: self.schedule.pattern_at(self.steps, layer.pattern) for layer in self.layers}
        found = find_masks(self.layers, self._finder, patterns, given, self.steps, self._distributed)
        for layer in self.layers:  # all of them before the first is changed
            layer.prepare(patterns[layer.name], found[layer.name].complete)
        rows = []
        for layer in self.layers:
            new, pattern = found[layer.name], patterns[layer.name]
            flips = layer.set_mask(new, pattern, self.steps)
            rows.append(LayerRenewal(layer.name, pattern, new.score, flips, new.mask.numel(), new.seconds))
        self.last_renewal = Renewal(self.steps, tuple(rows), time.perf_counter() - begin)
        if self._on_renewal is not None:
            self._on_renewal(self.last_renewal)
        return self.last_renewal

    def _follow_shards(self) -> bool:
        """Cut masks like weights that `fully_shard` has cut since; returns whether any was."""
        return any([layer.follow_shards() for layer in self.layers])


def _row(layer: SparseLayer) -> LayerReport:
    return LayerReport(
        layer=layer.name,
        shape=tuple(layer.weight.shape),
        pattern=layer.pattern,
        step=layer.step,
        retained=None if layer.score is None else layer.score.retained,
        gap=None if layer.score is None else layer.score.gap,
        backend=layer.backend,
        reason=layer.reason,
        tied=tuple(owner.name for owner in layer.owners[1:]),
    )

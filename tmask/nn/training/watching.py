"""Following optimizers: hooks around their steps, and what their parameters tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer

from tmask.errors import InvalidProblemError
from tmask.nn.layers.layer import SparseLayer
from tmask.nn.training.decay import learning_rates


def plain_optimizer(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside the wrappers of accelerate and Lightning, whose `step` does not always step."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


def check_optimizers(optimizers: Sequence[Any], layers: Sequence[SparseLayer]) -> list[Optimizer]:
    """The optimizers, out of their wrappers, if together they hold every weight that has a mask and is trained.

    Raises:
        InvalidProblemError: they do not, or are none.
    """
    if not optimizers:
        raise InvalidProblemError("no optimizer is given to watch")
    if wrong := [one for one in optimizers if not isinstance(one, Optimizer)]:
        raise InvalidProblemError(
            f"optimizer is a {type(wrong[0]).__name__}; give a torch.optim.Optimizer, made from the model's parameters"
        )
    plain = list(dict.fromkeys(map(plain_optimizer, optimizers)))  # hooks twice on one would count it twice
    held = {key for optimizer in plain for key in learning_rates(optimizer)}
    # A frozen weight stays as it is, and no optimizer has to hold it.
    missing = [layer.name for layer in layers if layer.weight.requires_grad and id(layer.weight) not in held]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        which = "the optimizer does" if len(plain) == 1 else f"the {len(plain)} optimizers do"
        raise InvalidProblemError(
            f"{which} not hold {len(missing)} of the {len(layers)} weights with a mask ({shown}); "
            "make it from the parameters of this model, or exclude these layers"
        )
    return plain


class Watch:
    """Hooks on optimizers, until `end`.

    Args:
        optimizers: which take their steps in turn.
        before: called ahead of an optimizer's step, with complete gradients: with the optimizer, and whether this is a
            repetition within one step, as by the closures of LBFGS.
        after: called once every optimizer has stepped. A step that a GradScaler skips is none.
        in_closures: whether `before` is to follow each call of a closure, which makes the gradients.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        before: Callable[[Optimizer, bool], object],
        after: Callable[[], object],
        in_closures: bool,
    ) -> None:
        self.optimizers = tuple(optimizers)
        self._before = before
        self._after = after
        self._in_closures = in_closures
        self._stepped: set[int] = set()
        self._hooks = [optimizer.register_step_pre_hook(self._before_step) for optimizer in optimizers]
        self._hooks += [optimizer.register_step_post_hook(self._after_step) for optimizer in optimizers]

    def end(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def order(self, layers: Sequence[SparseLayer]) -> list[int | None]:
        """The places of the layers' weights among the optimizers' parameters, by which torch saves their state."""
        parameters = [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]
        places = {id(parameter): place for place, parameter in enumerate(parameters)}
        return [places.get(id(layer.weight)) for layer in layers]

    @property
    def has_state(self) -> bool:
        """Whether the optimizers have stepped, or have loaded the state of ones that had."""
        return any(optimizer.state for optimizer in self.optimizers)

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """With a closure, gradients exist only once it has run."""
        _, *rest = args
        closure = rest[0] if rest else kwargs.get("closure")
        if closure is None or not self._in_closures:
            self._before(optimizer, False)
            return None
        # torch takes what the hook returns for the arguments of the step, the optimizer itself among them.
        again = False

        def followed() -> Any:
            nonlocal again
            loss = closure()
            self._before(optimizer, again)
            again = True
            return loss

        return (optimizer, followed, *rest[1:]), {k: v for k, v in kwargs.items() if k != "closure"}

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        overflow = getattr(optimizer, "found_inf", None)  # a fused optimizer under a GradScaler skips by itself
        if overflow is not None and overflow.item():
            return
        # A set: an optimizer that steps twice before the others have stepped counts once.
        self._stepped.add(id(optimizer))
        if len(self._stepped) == len(self.optimizers):
            self._stepped.clear()
            self._after()

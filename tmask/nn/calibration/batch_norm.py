"""Recompute the running statistics of batch norms after weights have changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tmask.nn.calibration.batches import Calibration, Forward, Stopped, evaluating, first_input
from tmask.nn.calibration.hooks import removing
from tmask.nn.calibration.statistics import ChannelSums, batch_norms, running, set_from_sums, write_running

# Values of a feature that a call must give, on average, for the statistics of that call to stand for those of the data.
# With fewer, a batch norm behind others reads inputs that were normalised by noise: by zero, with one value a call.
_FEW = 100

_Norms = Mapping[str, _BatchNorm]


def recalibrate(
    model: nn.Module, batches: Iterable[Any], *, exact: bool | None = None, forward: Forward | None = None
) -> int:
    """Set running mean and variance of every batch norm to those of its inputs on these batches, in place.

    In one pass, each batch is normalised by its own statistics, as in training, and the statistics of all batches are
    pooled. With one batch, and for batch norms without another before them, that is the same as the statistics of all
    data at once; else it is close to it, if batches are large. The exact way is the same always: one batch norm after
    the other, each under the final statistics of those before it.

    Args:
        batches, forward: as in `adaprune`.
        exact: True, a pass (cut short) for each batch norm; False, one pass; None, one pass, and the exact ones after
            it if a batch norm gets fewer than 100 values of a feature a call (rows, or images times positions).
    Returns:
        The number of batch norms that were set; those that no batch reaches stay as they are.
    Raises:
        InvalidProblemError: NaN or infinite activations (names the batch norm), batches that the model refuses.
            The model is then as it was before.
    """
    norms = batch_norms(model)
    calibration = batches if isinstance(batches, Calibration) else Calibration(batches, forward)
    before = {name: tuple(kept.clone() for kept in running(norm)) for name, norm in norms.items()}
    try:
        with evaluating(model):
            if exact:
                return _one_by_one(model, norms, calibration)
            found = _pooled(model, norms, calibration)
            # One call of few values is exact all the same: its own statistics are those of the data.
            small = any(sums.calls > 1 and sums.count < _FEW * sums.calls for sums in found.values())
            return _one_by_one(model, norms, calibration) if small and exact is None else len(found)
    except BaseException:
        for name, (mean, variance) in before.items():
            write_running(norms[name], mean, variance)
        raise


def _pooled(model: nn.Module, norms: _Norms, calibration: Calibration) -> dict[str, ChannelSums]:
    """One pass for all; the sums of those that it reaches, by name."""
    found = {name: ChannelSums() for name in norms}
    names = {norm: name for name, norm in norms.items()}

    def reads(module: _BatchNorm, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = first_input(inputs, named)
        if x.numel():
            # Written at once: what this very call is normalised by.
            write_running(module, *found[names[module]].add(x))

    with removing(norm.register_forward_pre_hook(reads, with_kwargs=True) for norm in norms.values()):
        for _ in calibration.run(model):
            pass
    reached = {name: sums for name, sums in found.items() if sums.count}
    for name, sums in reached.items():
        set_from_sums(name, norms[name], sums)
    return reached


def _one_by_one(model: nn.Module, norms: _Norms, calibration: Calibration) -> int:
    """A pass for each, in the order of their calls; how many there are in it."""
    # In this order, each one's inputs are final once those before it are set.
    order = _calls(model, norms, calibration)
    for name in dict.fromkeys(order):
        # One that is called several times in a pass reads more later in it, and the pass must go on.
        sums = _sums_of(model, norms[name], calibration, to_the_end=order.count(name) > 1)
        if sums.count:
            set_from_sums(name, norms[name], sums)
    return len(set(order))


def _calls(model: nn.Module, norms: _Norms, calibration: Calibration) -> list[str]:
    """Names in the order in which the first batch calls them, once for each call."""
    names = {norm: name for name, norm in norms.items()}
    order: list[str] = []

    def called(module: _BatchNorm, _: Any) -> None:
        order.append(names[module])

    with removing(norm.register_forward_pre_hook(called) for norm in norms.values()):
        for _ in calibration.run(model):
            break
    return order


def _sums_of(model: nn.Module, norm: _BatchNorm, calibration: Calibration, to_the_end: bool) -> ChannelSums:
    """What one batch norm reads; each forward pass stops there unless it is to go on to its end."""
    sums = ChannelSums()

    def reads(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        sums.add(first_input(inputs, named))
        if not to_the_end:
            raise Stopped

    with removing([norm.register_forward_pre_hook(reads, with_kwargs=True)]):
        for _ in calibration.run(model):
            pass
    return sums

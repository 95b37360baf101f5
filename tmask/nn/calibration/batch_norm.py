"""Recompute the running statistics of batch norms after weights have changed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tmask.errors import InvalidProblemError
from tmask.nn.calibration.batches import Calibration, Forward, Stopped, evaluating, first_input

# Values of a feature that a call must give, on average, for the statistics of that call to stand for those of the data.
# With fewer, a batch norm behind others reads inputs that were normalised by noise: by zero, with one value a call.
_FEW = 100


@dataclass(slots=True)
class _Sums:
    """Of what one batch norm has read."""

    count: int = 0
    calls: int = 0
    total: Tensor | None = None
    squares: Tensor | None = None

    def add(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Add inputs (B, features, ...); their own mean and (population) variance."""
        x = x.detach()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        count = x.numel() // x.shape[1]
        total, squares = x.sum(axes, dtype=torch.float64), x.to(torch.float64).square().sum(axes)
        self.count += count
        self.calls += 1
        self.total = total if self.total is None else self.total + total
        self.squares = squares if self.squares is None else self.squares + squares
        mean = total / count
        return mean, (squares / count - mean.square()).clamp_min(0)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean, and the variance of a population, of all that was added."""
        assert self.total is not None
        assert self.squares is not None
        mean = self.total / self.count
        return mean, (self.squares / self.count - mean.square()).clamp_min(0)


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Those that keep running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


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
    before = {name: _state(norm) for name, norm in norms.items()}
    try:
        with evaluating(model):
            if exact:
                return _each(model, norms, calibration)
            found = _pooled(model, norms, calibration)
            small = any(sums.calls > 1 and sums.count < _FEW * sums.calls for sums in found.values())
            return _each(model, norms, calibration) if small and exact is None else len(found)
    except BaseException:
        for name, (mean, variance) in before.items():
            _write(norms[name], mean, variance)
        raise


def set_statistics(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: int) -> None:
    """Write a mean and a population's variance; the running variance is the unbiased one of `count` samples."""
    _write(norm, mean, variance * (count / max(1, count - 1)))


def far_from(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> bool:
    """Whether running statistics are far from these, by more than a sampling error of a few hundred values explains.

    True if for half of the features the variance differs by a factor above 3, or the mean by more than a standard
    deviation of the running statistics.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    running = norm.running_var.to(torch.float64).clamp_min(norm.eps)
    factors = ((variance + norm.eps) / running).log().abs()
    shifts = (mean - norm.running_mean.to(torch.float64)).abs() / running.sqrt()
    return bool(((factors > math.log(3)) | (shifts > 1)).to(torch.float64).mean() > 0.5)


def _pooled(model: nn.Module, norms: dict[str, _BatchNorm], calibration: Calibration) -> dict[str, _Sums]:
    sums = {name: _Sums() for name in norms}

    def hook(name: str) -> Any:
        def reads(module: _BatchNorm, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = first_input(inputs, named)
            if x.numel():
                _write(module, *sums[name].add(x))  # what this very call is normalised by

        return reads

    handles = [norm.register_forward_pre_hook(hook(name), with_kwargs=True) for name, norm in norms.items()]
    try:
        for _ in calibration.run(model):
            pass
    finally:
        for handle in handles:
            handle.remove()
    reached = {name: found for name, found in sums.items() if found.count}
    for name, found in reached.items():
        _finish(name, norms[name], found)
    return reached


def _each(model: nn.Module, norms: dict[str, _BatchNorm], calibration: Calibration) -> int:
    names = {norm: name for name, norm in norms.items()}
    order: list[str] = []
    handles = [norm.register_forward_pre_hook(lambda module, _: order.append(names[module])) for norm in norms.values()]
    try:
        for _ in calibration.run(model):
            break
    finally:
        for handle in handles:
            handle.remove()
    for name in dict.fromkeys(order):
        sums, calls = _Sums(), order.count(name)

        def reads(module: nn.Module, inputs: Any, named: Any, sums: _Sums = sums, calls: int = calls) -> None:
            sums.add(first_input(inputs, named))
            if calls == 1:  # one that is shared reads more later in the pass
                raise Stopped

        handle = norms[name].register_forward_pre_hook(reads, with_kwargs=True)
        try:
            for _ in calibration.run(model):
                pass
        finally:
            handle.remove()
        if sums.count:
            _finish(name, norms[name], sums)
    return len(set(order))


def _finish(name: str, norm: _BatchNorm, sums: _Sums) -> None:
    mean, variance = sums.moments()
    if not bool(torch.isfinite(mean).all() and torch.isfinite(variance).all()):
        raise InvalidProblemError(
            f"batch norm {name!r}: its inputs hold NaN or infinite values on the calibration data; look at the data "
            "and at the layers before it"
        )
    set_statistics(norm, mean, variance, sums.count)


def _state(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean.clone(), norm.running_var.clone()


def _write(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)

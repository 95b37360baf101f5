"""A layer's calibration data in the form that least squares needs: sums of products, in float64.

    X^T X (G, C, C),  X^T Y (G, C, R),  sums of x, of y and of y^2

They take the same memory for ten images as for a million. The inputs X come from the model that is being pruned, the
outputs Y from the dense one. From them follow the error of any weight, and mean and variance of the layer's output
under it, which is what a batch norm behind the layer needs, without another pass over the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tmask.errors import InvalidProblemError
from tmask.nn.calibration import Calibration, Stopped
from tmask.nn.linear_view import LinearView

# Numbers of an unfolded input held at once: 8 MB in float64, of which a cache keeps the most.
_CHUNK = 1 << 20


@dataclass(slots=True)
class Gram:
    """Sums over S samples.

    Args:
        xx: (G, C, C) float64, X^T X.
        xy: (G, C, R) float64, X^T Y, Y without the layer's bias.
        x: (G, C) float64, sum of inputs.
        y: (G, R) float64, sum of outputs without bias.
        yy: (G, R) float64, sum of squared outputs without bias.
        samples: S.
    """

    xx: Tensor
    xy: Tensor
    x: Tensor
    y: Tensor
    yy: Tensor
    samples: int = 0

    @classmethod
    def zeros(cls, view: LinearView) -> Gram:
        """Of no samples yet, on the layer's device."""
        groups, rows, cols = view.shape
        device = view.module.weight.device

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(groups, *shape, dtype=torch.float64, device=device)

        return cls(zeros(cols, cols), zeros(cols, rows), zeros(cols), zeros(rows), zeros(rows))

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add samples: x (G, S, C) with the outputs y (G, S, R) that belong to them, without bias."""
        x, y = x.to(torch.float64), y.to(torch.float64)
        self.xx.baddbmm_(x.transpose(1, 2), x)
        self.xy.baddbmm_(x.transpose(1, 2), y)
        self.x += x.sum(1)
        self.y += y.sum(1)
        self.yy += y.square().sum(1)
        self.samples += x.shape[1]

    def centred(self) -> Gram:
        """The same sums of inputs and outputs less their means: what is left for the weight once a bias is free."""
        if not self.samples:
            return self
        mean, target = self.x / self.samples, self.y / self.samples
        return Gram(
            self.xx - self.x[:, :, None] * mean[:, None, :],
            self.xy - self.x[:, :, None] * target[:, None, :],
            torch.zeros_like(self.x),
            torch.zeros_like(self.y),
            (self.yy - self.y * target).clamp_min(0),
            self.samples,
        )

    def errors(self, weight: Tensor) -> Tensor:
        """(G, R) sums of squared differences between X w^T and Y, for weights (G, R, C) in float64."""
        fitted = (weight @ self.xx * weight).sum(2)
        return (self.yy - 2 * (weight * self.xy.transpose(1, 2)).sum(2) + fitted).clamp_min(0)

    def moments(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (G, R) of X w^T over the samples; the variance is that of a population."""
        mean = (weight @ self.x[:, :, None])[:, :, 0] / self.samples
        square = (weight @ self.xx * weight).sum(2) / self.samples
        return mean, (square - mean.square()).clamp_min(0)


class _Recorder:
    """Adds up one layer's calls of a batch: outputs of the dense layer first, then inputs of the one being pruned."""

    def __init__(self, name: str, pruned: LinearView, dense: LinearView) -> None:
        self.name, self.pruned, self.dense = name, pruned, dense
        self.gram = Gram.zeros(pruned)
        self.outputs: list[Tensor] = []
        self.calls_now = 0

    def on_dense(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        # A copy: what the model does to the output in place later in the pass must not reach it.
        self.outputs.append(output.detach().clone())

    def on_pruned(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        x = self.pruned.batched(inputs[0].detach())
        y = self.dense.batched(output.detach() if self.dense.module is module else self.outputs[self.calls_now])
        self.calls_now += 1
        bias = self.dense.module.bias
        groups, rows, cols = self.pruned.shape
        unfolded = max(1, y.numel() // rows * cols)  # numbers of the whole batch
        images = max(1, _CHUNK * len(x) // unfolded)
        for part, target in zip(torch.split(x, images), torch.split(y, images), strict=True):
            samples = self.dense.outputs(target.to(torch.float64))
            if bias is not None:
                samples = samples - bias.detach().to(torch.float64).reshape(groups, 1, rows)
            self.gram.add(self.pruned.inputs(part.to(torch.float64)), samples)

    def end_batch(self) -> None:
        self.outputs.clear()
        self.calls_now = 0


@contextmanager
def _hooks(handles: list[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def collect(calibration: Calibration, model: nn.Module, views: dict[str, LinearView]) -> dict[str, Gram]:
    """The sums of several layers of one model, inputs and outputs alike from it, in one pass.

    Raises:
        InvalidProblemError: no samples, NaN or infinite activations (names the layer), and what `Calibration.run`
            raises.
    Cost: one pass; S C^2 multiplications and C^2 numbers for each layer and group.
    """
    recorders = [_Recorder(name, view, view) for name, view in views.items()]
    with _hooks([recorder.pruned.module.register_forward_hook(recorder.on_pruned) for recorder in recorders]):
        for _ in calibration.run(model):
            for recorder in recorders:
                recorder.end_batch()
    for recorder in recorders:
        check_usable(recorder.name, recorder.gram)
    return {recorder.name: recorder.gram for recorder in recorders}


def collect_pair(calibration: Calibration, name: str, pruned: nn.Module, dense: nn.Module, calls: int) -> Gram:
    """One layer's sums: inputs as they are in a model that is partly pruned, outputs as the dense one has them.

    Args:
        name: of the layer, in both models.
        calls: how often a forward pass calls it; the rest of the pass is cut off then.
    Raises:
        InvalidProblemError: as `collect`.
    """
    recorder = _Recorder(name, _view(pruned, name), _view(dense, name))

    def stop_dense(*_: object) -> None:
        if len(recorder.outputs) == calls:
            raise Stopped

    def stop_pruned(*_: object) -> None:
        if recorder.calls_now == calls:
            raise Stopped

    handles = [
        recorder.dense.module.register_forward_hook(recorder.on_dense),
        recorder.dense.module.register_forward_hook(stop_dense),
        recorder.pruned.module.register_forward_hook(recorder.on_pruned),
        recorder.pruned.module.register_forward_hook(stop_pruned),
    ]
    with _hooks(handles):
        for _ in calibration.run(dense, pruned):
            recorder.end_batch()
    check_usable(name, recorder.gram)
    return recorder.gram


def check_usable(name: str, gram: Gram) -> None:
    """Return if there are samples, and all sums are finite.

    Raises:
        InvalidProblemError: names the layer, and whether its inputs or its outputs are to blame.
    """
    if not gram.samples:
        raise InvalidProblemError(
            f"layer {name!r}: not one sample reaches it (its inputs are empty in every batch of the calibration data); "
            "give batches that hold something, or exclude the layer"
        )
    for what, tensor in (("inputs", gram.xx), ("outputs", gram.yy)):
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidProblemError(
                f"layer {name!r}: its {what} hold NaN or infinite values (or squares that overflow) on the calibration "
                "data; look at the data and at the layers before it"
            )


def _view(model: nn.Module, name: str) -> LinearView:
    return LinearView(model.get_submodule(name))  # type: ignore[arg-type]

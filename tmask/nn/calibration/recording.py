"""A pass of calibration data through one model, or through two at once, that adds up what layers read and give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tmask.errors import InvalidProblemError
from tmask.nn.calibration.batches import Calibration, Stopped, first_input
from tmask.nn.calibration.gram import Gram
from tmask.nn.calibration.hooks import removing
from tmask.nn.calibration.linear_view import LinearView

# Numbers of an unfolded input held at once: 8 MB in float64, of which a cache keeps the most.
_CHUNK = 1 << 20


class _Recorder:
    """Adds up one layer's calls of a batch: outputs of the dense layer first, then inputs of the one being pruned."""

    def __init__(self, name: str, pruned: LinearView, dense: LinearView) -> None:
        self.name, self.pruned, self.dense = name, pruned, dense
        self.gram = Gram.zeros(pruned)
        self.outputs: list[Tensor] = []
        self.calls_now = 0

    def on_dense(self, module: nn.Module, inputs: Any, named: Any, output: Tensor) -> None:
        """A copy of the output: what the model does to it in place later in the pass must not reach it."""
        self.outputs.append(output.detach().clone())

    def on_pruned(self, module: nn.Module, inputs: Any, named: Any, output: Tensor) -> None:
        self.calls_now += 1
        target = output.detach()
        # One model is its own target. Of two, the calls of both must pair up, sample by sample.
        if self.dense.module is not module:
            if self.calls_now > len(self.outputs) or self.outputs[self.calls_now - 1].shape != output.shape:
                self._refuse()
            target = self.outputs[self.calls_now - 1]
        x, y = self.pruned.batched(first_input(inputs, named).detach()), self.dense.batched(target)
        bias = self.dense.module.bias
        groups, rows, cols = self.pruned.shape
        # In parts, since an unfolded image takes as many times its memory as the kernel has positions.
        unfolded = max(1, y.numel() // rows * cols)  # numbers of the whole batch
        images = max(1, _CHUNK * len(x) // unfolded)
        for part, outputs in zip(torch.split(x, images), torch.split(y, images), strict=True):
            # The dense bias off: what the weight gives is fitted, and the bias is set after it.
            samples = self.dense.outputs(outputs.to(torch.float64))
            if bias is not None:
                samples = samples - bias.detach().to(torch.float64).reshape(groups, 1, rows)
            self.gram.add(self.pruned.inputs(part.to(torch.float64)), samples)

    def end_batch(self) -> None:
        if self.outputs and self.calls_now < len(self.outputs):
            self._refuse()
        self.outputs.clear()
        self.calls_now = 0

    def _refuse(self) -> None:
        raise InvalidProblemError(
            f"layer {self.name!r} reads other samples, or is called at other times, in the pruned model than in the "
            "dense one, as where the data decide which layer a sample goes to; use sequential=False, which reads one "
            "model alone"
        )


def collect(calibration: Calibration, model: nn.Module, views: Mapping[str, LinearView]) -> dict[str, Gram]:
    """The sums of several layers of one model, inputs and outputs alike from it, in one pass.

    Raises:
        InvalidProblemError: no samples, NaN or infinite activations (names the layer), and what `Calibration.run`
            raises.
    Cost: one pass; S C^2 multiplications and C^2 numbers for each layer and group.
    """
    recorders = [_Recorder(name, view, view) for name, view in views.items()]
    handles = [
        recorder.pruned.module.register_forward_hook(recorder.on_pruned, with_kwargs=True) for recorder in recorders
    ]
    with removing(handles):
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
        InvalidProblemError: as `collect`; and where both models do not call the layer on the same samples.
    """
    recorder = _Recorder(name, _view(pruned, name), _view(dense, name))

    def stop_dense(*_: object) -> None:
        # What comes behind the layer is most of a pass for an early one, and changes none of its sums.
        if len(recorder.outputs) == calls:
            raise Stopped

    def stop_pruned(*_: object) -> None:
        if recorder.calls_now == calls:
            raise Stopped

    # Hooks run in the order in which they are set: each model stops once its layer's last call is recorded.
    handles = [
        recorder.dense.module.register_forward_hook(recorder.on_dense, with_kwargs=True),
        recorder.dense.module.register_forward_hook(stop_dense),
        recorder.pruned.module.register_forward_hook(recorder.on_pruned, with_kwargs=True),
        recorder.pruned.module.register_forward_hook(stop_pruned),
    ]
    with removing(handles):
        # The dense model first: its outputs are the targets of the calls that follow in the other.
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

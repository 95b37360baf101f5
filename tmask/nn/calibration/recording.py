"""A pass of calibration data through one model, or through two at once, that adds up what layers read and give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tmask.errors import InvalidProblemError
from tmask.nn.calibration.batches import Calibration, Stopped, first_input
from tmask.nn.calibration.experts import is_routed
from tmask.nn.calibration.gram import Gram
from tmask.nn.calibration.hooks import removing
from tmask.nn.calibration.linear_view import LinearView
from tmask.nn.calibration.reading import Product, Reading
from tmask.nn.calibration.stored_matrix import StoredMatrix
from tmask.nn.calibration.weight_view import WeightView

# Numbers of an unfolded input held at once: 8 MB in float64, of which a cache keeps the most.
_CHUNK = 1 << 20
# What a layer reads and gives, and the bias in that, or None; samples first.
Note = Callable[[Tensor, Tensor, Tensor | None], None]


@contextmanager
def noting(notes: Mapping[WeightView, Note]) -> Iterator[None]:
    """Inside, each call of a layer, and each product with a stored matrix, is noted."""
    with ExitStack() as stack:
        for view, note in notes.items():
            if isinstance(view, LinearView):
                hook = view.module.register_forward_hook(_hook(view, note), with_kwargs=True)
                stack.enter_context(removing([hook]))
        stored = {view: note for view, note in notes.items() if isinstance(view, StoredMatrix)}
        if stored:
            stack.enter_context(_reading(stored))
        yield


def _reading(notes: Mapping[StoredMatrix, Note]) -> Reading:
    """For matrices of one model."""
    by_key = {view.key: note for view, note in notes.items()}
    parameters = {view.key.parameter: view.model.get_parameter(view.key.parameter) for view in notes}

    def on_product(product: Product) -> None:
        if product.key in by_key:
            by_key[product.key](*_samples(product), product.bias)

    return Reading(parameters, on_product)


def _hook(view: LinearView, note: Note) -> Callable[..., None]:
    def called(module: nn.Module, inputs: Any, named: Any, output: Tensor) -> None:
        x = view.batched(first_input(inputs, named).detach())
        note(x, view.batched(output.detach()), view.bias)

    return called


def _samples(product: Product) -> tuple[Tensor, Tensor]:
    """(S, C) and (S, R)."""
    x, y = (data.detach().reshape(-1, data.shape[-1]) for data in (product.inputs, product.result()))
    if product.key.index < 0:
        return x, y
    # Where a stack is multiplied as a whole, samples of other experts come as zeros.
    own = x.any(1)
    return x[own], y[own]


class _Recorder:
    """Adds up one layer's calls of a batch: outputs of the dense layer first, then inputs of the one being pruned.

    Args:
        paired: whether the outputs come from another model than the inputs; the calls of both must then pair up.
        calls: in a forward pass, after which the rest of the pass is cut off; 0 for no end.
    """

    def __init__(self, name: str, view: WeightView, paired: bool = False, calls: int = 0) -> None:
        self.name, self.view, self.paired, self.calls = name, view, paired, calls
        self.gram = Gram.zeros(view)
        self.outputs: list[tuple[Tensor, Tensor | None]] = []
        self.calls_now = 0

    def on_dense(self, x: Tensor, y: Tensor, bias: Tensor | None) -> None:
        """A copy of the output: what the model does to it in place later in the pass must not reach it."""
        self.outputs.append((y.clone(), bias))
        # What comes behind the layer is most of a pass for an early one, and changes none of its sums.
        if len(self.outputs) == self.calls:
            raise Stopped

    def on_pruned(self, x: Tensor, y: Tensor, bias: Tensor | None) -> None:
        self.calls_now += 1
        if self.paired:
            if self.calls_now > len(self.outputs) or self.outputs[self.calls_now - 1][0].shape != y.shape:
                self._refuse()
            y, bias = self.outputs[self.calls_now - 1]
        self._add(x, y, bias)
        if self.calls_now == self.calls:
            raise Stopped

    def _add(self, x: Tensor, y: Tensor, bias: Tensor | None) -> None:
        groups, rows, cols = self.view.shape
        # In parts, since an unfolded image takes as many times its memory as the kernel has positions.
        unfolded = max(1, y.numel() // rows * cols)  # numbers of the whole batch
        images = max(1, _CHUNK * len(x) // unfolded)
        for part, outputs in zip(torch.split(x, images), torch.split(y, images), strict=True):
            # The dense bias off: what the weight gives is fitted, and the bias is set after it.
            samples = self.view.outputs(outputs.to(torch.float64))
            if bias is not None:
                samples = samples - bias.detach().to(torch.float64).reshape(groups, 1, rows)
            self.gram.add(self.view.inputs(part.to(torch.float64)), samples)

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


def collect(calibration: Calibration, model: nn.Module, views: Mapping[str, WeightView]) -> dict[str, Gram]:
    """The sums of several layers of one model, inputs and outputs alike from it, in one pass.

    Raises:
        InvalidProblemError: no samples for a layer that every sample passes, NaN or infinite activations (names the
            layer), and what `Calibration.run` raises.
    Cost: one pass; S C^2 multiplications and C^2 numbers for each layer and group.
    """
    recorders = {view: _Recorder(name, view) for name, view in views.items()}
    with noting({view: recorder.on_pruned for view, recorder in recorders.items()}):
        for _ in calibration.run(model):
            for recorder in recorders.values():
                recorder.end_batch()
    for recorder in recorders.values():
        # An expert may have no sample; what becomes of it, the caller decides.
        if recorder.gram.samples or not is_routed(recorder.name):
            check_usable(recorder.name, recorder.gram)
    return {recorder.name: recorder.gram for recorder in recorders.values()}


def collect_pair(
    calibration: Calibration, name: str, view: WeightView, pruned: nn.Module, dense: nn.Module, calls: int
) -> Gram:
    """One layer's sums: inputs as they are in a model that is partly pruned, outputs as the dense one has them.

    Args:
        name: of the layer, in both models.
        view: of the layer in the pruned model.
        calls: how often a forward pass calls it; the rest of the pass is cut off then.
    Raises:
        InvalidProblemError: as `collect`; and where both models do not call the layer on the same samples.
    """
    recorder = _Recorder(name, view, paired=True, calls=calls)
    with noting({view.of(dense, name): recorder.on_dense}), noting({view: recorder.on_pruned}):
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

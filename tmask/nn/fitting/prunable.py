"""Which layers of a model are pruned, in the order in which data passes them; what is left out comes with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn.calibration.batches import Calibration, evaluating
from tmask.nn.calibration.experts import is_routed, kind_of, one_by_one
from tmask.nn.calibration.linear_view import CONVOLUTIONS, LinearView
from tmask.nn.calibration.reading import Key, matrix_parameters
from tmask.nn.calibration.stored_matrix import StoredMatrix
from tmask.nn.calibration.tracing import Trace, trace
from tmask.nn.calibration.weight_view import WeightView
from tmask.nn.fitting.layer_filter import LayerFilter
from tmask.nn.fitting.unprunable import attention, left_out, owners, unfit, unfit_matrix
from tmask.nn.libraries import adapters
from tmask.nn.libraries.offloading import check_in_memory
from tmask.nn.libraries.roles import ModelRoles
from tmask.nn.names import ByLayer, matches, parameter_of, weight_name

Narrow = Callable[[WeightView], str]


@dataclass(frozen=True, slots=True)
class Prunable:
    """A layer to prune.

    Args:
        name: of its weight.
        view: its weight as matrices.
        calls: of it in one forward pass.
        batch_norm: the module that reads its output directly, or None.
        only_reader: whether nothing but the batch norm reads the output.
    """

    name: str
    view: WeightView
    calls: int = 1
    batch_norm: _BatchNorm | None = None
    only_reader: bool = False

    @property
    def routed(self) -> bool:
        """Whether the data decide which samples come to it."""
        return is_routed(self.name)

    @property
    def stage(self) -> str:
        """The same for layers beside one another: experts of one kind."""
        return parameter_of(kind_of(self.name))


def find_layers(
    model: nn.Module, calibration: Calibration, wanted: LayerFilter, narrow: Narrow = lambda _: ""
) -> tuple[list[Prunable], ByLayer[str]]:
    """The layers that are wanted and can be pruned, in the order of their first call; and why others are left dense.

    Every parameter of two axes or more is in one of the two.

    Args:
        narrow: why a weight has no room for what it is to become, or "".
    Raises:
        InvalidProblemError: a glob that matches no layer, no layer left, and what `Calibration.run` raises.
    Cost: one batch through the model, in evaluation mode.
    """
    check_in_memory(model, "Load the model, or give its directory to prune_blocks")
    every = {name: p for name, p in model.named_parameters(remove_duplicate=False) if p.ndim > 1}
    modules = {
        weight_name(name): module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, *CONVOLUTIONS))
    }
    # Before any data are read, which can take long.
    wanted.check({**modules, **every})
    held = {id(p) for module in modules.values() for p in module._parameters.values()}
    others = {name: p for name, p in matrix_parameters(model).items() if id(p) not in held}
    with evaluating(model), one_by_one(model):
        found = trace(model, calibration, modules, others)
    candidates = _candidates(model, modules, found)
    ends = _ends([str(name) for name in found.order], modules) if wanted.skip_ends else {}
    roles = ModelRoles(model)
    owned = owners(model)
    layers, skipped = [], attention(model)
    apart = adapters.adapter_weights(model, [layer.name for layer in candidates], wanted.include, matches)
    for layer in candidates:
        reason = wanted.reason(layer.name)
        if not reason:
            reason = adapters.REASON if layer.name in apart else _unfit(layer.view, owned)
        if not reason and not layer.calls:
            reason = "the first batch of the calibration data does not reach it"
        if not reason and (held_back := wanted.held_back(layer.name, ends.get(layer.name, ""), roles)):
            # Advice to include it is given only where that helps.
            reason = narrow(layer.view) or held_back
        if reason:
            # What is said of attention's projections stands: that they are not called follows from it.
            skipped.setdefault(layer.name, reason)
        else:
            layers.append(layer)
    known = {parameter_of(layer.name) for layer in layers} | {parameter_of(name) for name in skipped}
    for name in every:
        if name not in known and (reason := left_out(model, name, known)):
            skipped[name] = wanted.reason(name) or reason
    # An error, and no empty report: a model that comes back unpruned would be taken for a pruned one.
    if not layers:
        raise no_layer(skipped)
    return layers, ByLayer(skipped)


def _candidates(model: nn.Module, modules: Mapping[str, nn.Module], found: Trace) -> list[Prunable]:
    """All layers, and other matrices with which products were seen, in their order; unreached layers last."""
    calls = Counter(map(str, found.order))
    layers = []
    for name, module in modules.items():
        own = found.norms.get(name)
        only = own is not None and name not in found.shared
        layers.append(Prunable(name, LinearView(module), calls[name], own, only))  # type: ignore[arg-type]
    for parameter, first in {key.parameter: first for key, first in found.read.items()}.items():
        stored = model.get_parameter(parameter)
        indices = range(len(stored)) if stored.ndim > 2 else [-1]
        for key in (Key(parameter, index) for index in indices):
            layers.append(Prunable(str(key), StoredMatrix(model, key, first), calls[str(key)]))
    # Experts of one kind together, whichever of them the first batch comes to.
    stages = [*dict.fromkeys(parameter_of(kind_of(str(name))) for name in found.order)]
    place = {stage: index for index, stage in enumerate(stages)}
    like = [Prunable(layer.name, layer.view) if layer.routed and layer.stage in place else layer for layer in layers]
    return sorted(like, key=lambda layer: place.get(layer.stage, len(place)))


def _unfit(view: WeightView, owned: Mapping[int, int]) -> str:
    if isinstance(view, LinearView):
        return unfit(view.module, owned)
    assert isinstance(view, StoredMatrix)
    return unfit_matrix(view, owned)


def narrower_than(view: WeightView, pattern: Pattern, transposable: bool) -> str:
    """Why no tile or group of the pattern is full in this layer, or ""."""
    sides = {"inputs": view.channels} | ({"outputs": view.rows} if transposable else {})
    narrow = [f"{count} {what}" for what, count in sides.items() if count < pattern.m]
    per_group = " in a group" if view.groups > 1 else ""
    return f"{' and '.join(narrow)}{per_group}, fewer than the {pattern.m} of {pattern}" if narrow else ""


def no_layer(skipped: Mapping[str, str]) -> InvalidProblemError:
    """The error for a model of which nothing is left to prune."""
    reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:10])
    return InvalidProblemError(
        f"the model has no eligible layer ({reasons or 'it has no linear or convolution layers'})"
    )


def _ends(order: Sequence[str], modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """What stays dense unless it is asked for: pruning it costs most and saves least."""
    ends = {}
    for name in order:
        if isinstance(modules.get(name), CONVOLUTIONS):
            ends[name] = "the first convolution"
            break
    # By the last call, and not the last definition, which can stand anywhere in a class.
    if order:
        ends[order[-1]] = "the classifier"
    return ends

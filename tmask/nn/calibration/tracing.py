"""What a forward pass does with the layers of a model: in which order it calls them, and who reads their outputs.

Matrices that no layer holds have their place in that order too, where a product with them is seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tmask.nn.calibration.batches import Calibration, first_input
from tmask.nn.calibration.hooks import removing
from tmask.nn.calibration.reading import Key, Product, Reading


@dataclass(slots=True)
class Trace:
    """One forward pass.

    Args:
        order: names of the layers, and keys of other matrices, once for each call.
        read: how the other matrices are stored: whether outputs come first.
        norms: the batch norm that reads a layer's output directly, where there is one and both are called once.
        shared: layers whose output something else than a batch norm reads, the caller of the model included.
    """

    order: list[str | Key] = field(default_factory=list)
    read: dict[Key, bool] = field(default_factory=dict)
    norms: dict[str, _BatchNorm] = field(default_factory=dict)
    shared: set[str] = field(default_factory=set)


def trace(
    model: nn.Module,
    calibration: Calibration,
    modules: Mapping[str, nn.Module],
    parameters: Mapping[str, Tensor],
) -> Trace:
    """What the first batch passes.

    Args:
        modules: the layers to look at, by name.
        parameters: the other matrices and stacks to look at, by name.
    Raises:
        InvalidProblemError: as `Calibration.run`.
    """
    watch = _Watch(modules)
    handles = [module.register_forward_hook(watch.leaves) for module in modules.values()]
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            handles.append(module.register_forward_pre_hook(watch.enters, with_kwargs=True))
            handles.append(module.register_forward_hook(watch.ends))
    # Whoever calls the model reads what it returns, which no operation shows.
    handles.append(model.register_forward_hook(watch.returns))
    with removing(handles), watch, Reading(parameters, watch.reads_matrix):
        for _ in calibration.run(model):
            break
    calls = Counter(watch.found.order)
    # Where either is called again, the batch norm may see more than the outputs of this layer.
    watch.found.norms = {
        name: norm for name, norm in watch.found.norms.items() if calls[name] == watch.reads[norm] == 1
    }
    return watch.found


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation of a pass, and is told of the calls of layers and batch norms."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = {module: name for name, module in modules.items()}
        self.found = Trace()
        self.made: dict[int, tuple[Tensor, int, str]] = {}  # the tensors are held, or their ids would be given away
        self.reads: Counter[nn.Module] = Counter()
        self.inside = 0  # batch norms that run now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # What a batch norm does inside is its own reading, which `enters` has noted.
        if not self.inside:
            self._read((args, kwargs))
        return func(*args, **(kwargs or {}))

    def leaves(self, module: nn.Module, _: Any, output: Any) -> None:
        """A layer has been called."""
        self.found.order.append(self.names[module])
        if isinstance(output, Tensor):  # a class with a forward of its own may give anything
            self.made[id(output)] = output, _version(output), self.names[module]

    def reads_matrix(self, product: Product) -> None:
        """A product with another matrix is called."""
        self.found.order.append(product.key)
        self.found.read[product.key] = product.outputs_first

    def enters(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """A batch norm is called."""
        self.inside += 1
        self.reads[module] += 1
        output, version, name = self.made.get(id(first_input(inputs, named)), (None, 0, ""))
        if output is None:
            return
        # A version that has moved on tells of an operation in place, such as an activation. Tensors of inference mode
        # have none, and there whatever has read it may have been one.
        if _version(output) == version and not (output.is_inference() and name in self.found.shared):
            self.found.norms[name] = module  # type: ignore[assignment]

    def ends(self, *_: Any) -> None:
        """A batch norm has been called."""
        self.inside -= 1

    def returns(self, module: nn.Module, _: Any, output: Any) -> None:
        """The model has been called."""
        self._read(output)

    def _read(self, values: Any) -> None:
        for leaf in tree_leaves(values):
            if isinstance(leaf, Tensor) and id(leaf) in self.made:
                self.found.shared.add(self.made[id(leaf)][2])


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version

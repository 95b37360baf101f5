"""The one place that decides what a tensor of a file is: by name, dtype, shape, neighbours and the model's config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from tmask.blocks.layouts import is_open, read_layout, sides
from tmask.files.roles.config import ModelConfig, read_config
from tmask.files.roles.names import RolesByName, Waiver, names_convolution, names_experts
from tmask.files.roles.quantised import find_codes, owner_of
from tmask.files.tensors import FLOATS
from tmask.files.weight_file import WeightFile

# The groups of a model's convolutions, by the names of its file's tensors.
Convolutions = Callable[[WeightFile], Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Role:
    """What a tensor is.

    Args:
        reason: why it gets no mask, "" for a weight.
        waiver: what lifts the reason.
        layout: of a weight; "" where neither shape, name nor config says it.
        groups: of a convolution.
    """

    reason: str = ""
    waiver: Waiver = Waiver.NEVER
    layout: str = "matrix"
    groups: int = 1


class Roles:
    """The roles of a file's tensors.

    Args:
        file: of which headers alone are looked at.
        side: of a tile; None for any.
        layouts, groups: that the user gave, by name.
        convolutions: asked once, where the file alone leaves something open.
    """

    def __init__(
        self,
        file: WeightFile,
        side: int | None = None,
        layouts: Mapping[str, str] | None = None,
        groups: Mapping[str, int] | None = None,
        convolutions: Convolutions | None = None,
    ) -> None:
        self._file, self._side, self._ask_model = file, side, convolutions
        self._layouts, self.given_groups = layouts or {}, groups or {}
        self.config: ModelConfig = read_config(file.path)
        self.codes = find_codes(file)
        self._named = RolesByName(file.shapes, bool(self.config.experts))

    def of(self, name: str) -> Role:
        """The role of one tensor."""
        if reason := self._no_weight(name):
            return Role(reason)
        layout = self._layout(name)
        groups = self._count_groups(name, layout)
        if (role := self._named.of(name)) is not None:
            return Role(role.reason, role.waiver, layout, groups)
        if reason := self._small(name, layout, groups):
            return Role(reason, Waiver.FULL_NAME, layout, groups)
        return Role("", Waiver.NEVER, layout, groups)

    def _no_weight(self, name: str) -> str:
        """Why a tensor can be no weight at all, or ""."""
        shape, dtype = self._file.shapes[name], self._file.dtypes[name]
        if owner := owner_of(name, self.codes):
            return f"it belongs to the quantised {owner}"
        if name in self.codes:
            return "codes of a quantised weight"
        if len(shape) < 2:
            return f"{len(shape)}-D, no matrix"
        if 0 in shape:
            return "empty"
        return "" if dtype in FLOATS else f"dtype {dtype}"

    def _layout(self, name: str) -> str:
        """How a tensor is read, or ""."""
        shape = self._file.shapes[name]
        if given := self._layouts.get(name):
            return read_layout(shape, given)
        if len(shape) == 2:
            return "matrix"
        if names_experts([name]) or shape[0] in self.config.experts:
            return "stack"
        if names_convolution(name) or not is_open(shape) or name in self.known_groups:
            return "convolution"
        return ""

    @cached_property
    def known_groups(self) -> Mapping[str, int]:
        """What the model says of its convolutions; asked for when the first tensor needs it, since it takes seconds."""
        return {} if self._ask_model is None else self._ask_model(self._file)

    def _count_groups(self, name: str, layout: str) -> int:
        """As given; one input of a convolution's filters says that each has its own, and the model the rest."""
        shape = self._file.shapes[name]
        if name in self.given_groups or layout != "convolution":
            return self.given_groups.get(name, 1)
        return shape[0] if shape[1] == 1 else self.known_groups.get(name, 1)

    def _small(self, name: str, layout: str, groups: int) -> str:
        """Why no tile is full in a tensor, or ""."""
        shape, side = self._file.shapes[name], self._side
        if side is None:
            return ""
        rows, cols = sides(shape, layout or "stack", groups)
        if layout and rows * groups != sides(shape, layout)[0]:
            return ""  # groups that do not divide it are an error, which is told where it is tiled
        least = max(min(sides(shape, each)) for each in ((layout,) if layout else ("stack", "convolution")))
        if least >= side and rows >= side:
            return ""
        if layout == "convolution" and shape[1] == 1:
            return (
                f"one input for each filter, as in a depthwise convolution: no {side} x {side} tile is full (if it has "
                "fewer groups, give --groups)"
            )
        per_group = " in a group" if groups > 1 else ""
        return f"{rows} x {cols}{per_group}, smaller than a {side} x {side} tile"

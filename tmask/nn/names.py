"""The one way to name a layer: by the full name of its weight, "encoder.fc1.weight"; "encoder.fc1" is understood too.

A matrix of a stack goes by the stack's name and its place in it, "experts.gate_up_proj[3]".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

Value = TypeVar("Value")


def weight_name(module: str) -> str:
    """Of a module's weight; "" is the model itself."""
    return f"{module}.weight" if module else "weight"


def parameter_of(name: str) -> str:
    """The parameter that a layer's name says, without a place in a stack."""
    return name.partition("[")[0]


def full_name(name: str, known: Collection[str]) -> str:
    """The one of the known names that is meant; the name itself if none is."""
    return name if name in known or weight_name(name) not in known else weight_name(name)


def matches(glob: str, name: str) -> bool:
    """Whether a glob matches a layer's name, or that of a module around it (`*` crosses dots)."""
    # With its case on every system: `fnmatch.fnmatch` ignores it on Windows.
    if glob == name:
        return True
    parts = parameter_of(name).split(".")
    return any(fnmatchcase(".".join(parts[:end]), glob) for end in range(len(parts) + 1))


class ByLayer(dict[str, Value]):
    """What is known of layers, by their full names; looked up by a module's name too."""

    def __missing__(self, name: str) -> Value:
        full = full_name(name, self.keys())
        if full == name:
            raise KeyError(name)
        return self[full]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and full_name(name, self.keys()) in self.keys()

    def get(self, name: str, default: Any = None) -> Any:
        """As of any dict."""
        return super().get(full_name(name, self.keys()), default)

    def __or__(self, other: Mapping[str, Value]) -> ByLayer[Value]:  # type: ignore[override]
        return ByLayer({**self, **other})

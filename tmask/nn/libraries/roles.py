"""What a model in memory says of its parameters: names, by the rule of files, and types and configs besides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from tmask.files.roles.config import ModelConfig
from tmask.files.roles.names import ADAPTER, NamedRole, RolesByName, Waiver, names_experts


class ModelRoles:
    """The roles of a model's parameters.

    Args:
        model: or one block of it, whose names then stand behind a prefix.
    """

    def __init__(self, model: nn.Module, prefix: str = "") -> None:
        held = dict(model.named_parameters(remove_duplicate=False))
        self._shapes = {prefix + name: () if is_lazy(p) else tuple(p.shape) for name, p in held.items()}
        self._experts = _numbers_of_experts(model)
        tables = (
            f"{prefix}{name}.weight"
            for name, module in model.named_modules(remove_duplicate=False)
            if isinstance(module, nn.Embedding)
        )
        tables = (name for name in tables if name in self._shapes)  # one that is parametrized has another name
        self._by_name = RolesByName(self._shapes, bool(self._experts), tables)

    def of(self, name: str) -> NamedRole | None:
        """The role that a parameter's name tells, or None."""
        return self._by_name.of(name) if name in self._shapes else None

    def held_back(self, name: str, asked: Iterable[str], matches: Callable[[str, str], bool], ends: bool = True) -> str:
        """Why a matrix stays dense as long as nobody asks for it, or "".

        Args:
            asked: globs by which the user asks for parameters.
            ends: whether what stands at an end of the model, an embedding or the output head, is held back too.
        """
        role = self.of(name)
        # Names that are no weights' in files, such as masks, say nothing of a layer that multiplies with its own; and
        # adapters are told by more than their names, see `tmask.nn.libraries.adapters`.
        if role is None or role is ADAPTER or role.waiver is Waiver.NEVER or (role.waiver is Waiver.MATCH and not ends):
            return ""
        return "" if role.waiver.lifted(name, asked, matches) else role.reason

    def advice(self, name: str) -> str:
        """What to do to have a parameter that is held back all the same."""
        role = self.of(name)
        return "" if role is None else role.waiver.advice

    def is_matrix(self, name: str) -> bool:
        """Whether a parameter is known by its name for a matrix that is multiplied with, whatever module holds it."""
        role = self.of(name)
        return role is not None and role.product and len(self._shapes[name]) == 2

    def is_stack(self, name: str) -> bool:
        """Whether a parameter of three axes or more holds matrices of experts, one behind the other."""
        shape = self._shapes[name]
        return len(shape) > 2 and (names_experts([name]) or shape[0] in self._experts)


def _numbers_of_experts(model: nn.Module) -> frozenset[int]:
    """Of experts, by the configs of the model and its parts, as transformers keeps them."""
    held: list[Any] = [getattr(module, "config", None) for module in model.modules()]
    found: frozenset[int] = frozenset()
    for config in {id(config): config for config in held}.values():
        entries = config.to_dict() if callable(getattr(config, "to_dict", None)) else config
        if isinstance(entries, dict):
            found |= ModelConfig.of(entries).experts
    return found

"""Hooks of accelerate on a model, told by their form: whether they only move inputs, or keep weights elsewhere."""

from __future__ import annotations

from typing import Any

from torch import nn

from tmask.errors import InvalidProblemError


def own_forward(module: nn.Module, name: str) -> Any:
    """The function behind a module's method, under a hook of accelerate's that was put around it."""
    under: dict[str, Any] = vars(module)
    if name == "forward" and "_hf_hook" in under and "_old_forward" in under:
        found = under["_old_forward"]
        return getattr(found, "__func__", found)
    return under[name] if name in under else getattr(type(module), name, None)


def check_in_memory(model: nn.Module, advice: str) -> None:
    """Return if all parameters have values.

    Raises:
        InvalidProblemError: names those that have none, and says why.
    """
    away = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if not away:
        return
    hooked = any("_hf_hook" in vars(module) for module in model.modules())
    why = "accelerate keeps them elsewhere, and brings them in for each call alone" if hooked else "they have no values"
    shown = ", ".join(away[:3]) + (f" and {len(away) - 3} more" if len(away) > 3 else "")
    raise InvalidProblemError(f"the weights {shown} are not in memory ({why}). {advice}")

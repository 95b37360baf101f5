"""A solver's settings in words."""

from __future__ import annotations

from dataclasses import fields

from tmask.solving.solver import Solver


def settings_text(solver: Solver) -> str:
    """A solver's settings as "name=value" pairs; "" where it has none."""
    names = [field.name for field in fields(solver)]  # type: ignore[arg-type]
    return " ".join(f"{name}={getattr(solver, name)}" for name in names)  # not `asdict`, which copies what it holds

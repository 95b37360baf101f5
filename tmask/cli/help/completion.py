"""What a shell offers for a value that is being typed."""

from __future__ import annotations

from tmask.solving.registry import available_solvers


def complete_solver(incomplete: str) -> list[str]:
    """Solvers that can be used here; after a comma, a further one. Typer offers those that begin as what was typed."""
    before, comma, _ = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in ("auto", *available_solvers())]

"""`tmask solvers`: what is here, and what is missing."""

from __future__ import annotations

import dataclasses
from typing import Any

from tmask.cli.options import Json
from tmask.cli.report import reports_errors, show_json, show_table
from tmask.registry import SolverInfo, solver_class, solver_infos


@reports_errors
def solvers(json: Json = False) -> None:
    """List the solvers: exact or not, their settings, and how to install those that are missing."""
    infos = [_describe(info) for info in solver_infos()]
    if json:
        show_json(infos)
        return
    rows = [
        {
            "solver": info["name"],
            "kind": info["kind"],
            "here": "yes" if info["available"] else "no",
            "blocks up to": str(info["max_side"] or ""),
            "settings and defaults": ", ".join(f"{name}={value}" for name, value in info["settings"].items()),
            "to install": info["install"],
        }
        for info in infos
    ]
    show_table("Solvers", rows, left=("solver", "kind", "here", "settings and defaults", "to install"))


def _describe(info: SolverInfo) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": info.name,
        "available": info.available,
        "kind": "",
        "max_side": None,
        "settings": {},
        "missing": list(info.missing),
        "install": "" if info.available else info.install,
    }
    if info.available:
        cls = solver_class(info.name)
        described |= {
            "kind": "exact" if cls.exact else "heuristic",
            "max_side": cls.max_side,
            "settings": {field.name: field.default for field in dataclasses.fields(cls)},  # type: ignore[arg-type]
        }
    return described

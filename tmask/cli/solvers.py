"""`tmask solvers`: what is here, and what is missing."""

from __future__ import annotations

import dataclasses
from typing import Any

from tmask.cli.exit_codes import reports_errors
from tmask.cli.options import Json
from tmask.cli.output import show_json, show_table
from tmask.errors import TmaskError
from tmask.solving.registry import SolverInfo, solver_class, solver_infos


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
            "kind": info["kind"] or "-",
            "here": "yes" if info["available"] else "no",
            "blocks up to": str(info["max_side"] or "-"),
            "settings and defaults": ", ".join(f"{name}={value}" for name, value in info["settings"].items()),
            "to use it": info["problem"] or info["install"],
        }
        for info in infos
    ]
    show_table("Solvers", rows, texts=("solver", "kind", "here", "settings and defaults", "to use it"))


def _describe(info: SolverInfo) -> dict[str, Any]:
    """A solver in full; kind, side and settings are known to its file alone, which needs its library."""
    described: dict[str, Any] = {
        "name": info.name,
        "available": info.available,
        "kind": "",
        "max_side": None,
        "settings": {},
        "missing": list(info.missing),
        "install": "" if info.available else info.install,
        "problem": "",
    }
    if not info.available:
        return described
    try:
        cls = solver_class(info.name)
    except TmaskError as error:  # another package's solver that does not load must not hide the others
        return described | {"available": False, "problem": str(error)}
    return described | {
        "kind": "exact" if cls.exact else "heuristic",
        "max_side": cls.max_side,
        "settings": {field.name: _default(field) for field in dataclasses.fields(cls)},  # type: ignore[arg-type]
    }


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return "(made when used)"  # by code that may be another package's
    return "(required)" if field.default is dataclasses.MISSING else field.default

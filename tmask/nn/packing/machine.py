"""This machine as far as sparse kernels are concerned: what torch finds here, and which routes it can take."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tmask.nn.packing.routes import ROUTES, find_route


@dataclass(frozen=True, slots=True)
class Machine:
    """What torch finds here; `problem` says why no kernel can run, or is ""."""

    torch: str
    cuda: str
    device: str
    capability: str
    cusparselt: str
    route: str
    problem: str


def default_device() -> torch.device:
    """The current GPU, or the CPU where there is none."""
    # With its index: what is verified and measured is remembered by device, and "cuda" is not equal to "cuda:0".
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def examine(device: torch.device) -> Machine:
    """The machine as far as sparse kernels are concerned."""
    route, problem = find_route(device)
    # A device can be named on a machine that has none, and torch raises when asked about it.
    gpu = device.type == "cuda" and torch.cuda.is_available()
    return Machine(
        torch=torch.__version__,
        cuda=torch.version.cuda or "",
        device=torch.cuda.get_device_name(device) if gpu else device.type,
        capability=".".join(map(str, torch.cuda.get_device_capability(device))) if gpu else "",
        cusparselt=_cusparselt(),
        route=route.name if route else "",
        problem=problem,
    )


def kernels(device: torch.device) -> list[dict[str, str]]:
    """Every route: its name, where it runs, what it asks of a weight, and why not here, or ""."""
    return [
        {
            "kernels": route.name,
            "run on": route.hardware,
            "sides in multiples of": str(route.multiple),
            "not here because": route.problem(device),
        }
        for route in ROUTES.values()
    ]


def _cusparselt() -> str:
    library = getattr(torch.backends, "cusparselt", None)  # since torch 2.5
    version = library.version() if library is not None and library.is_available() else None
    return str(version or "")

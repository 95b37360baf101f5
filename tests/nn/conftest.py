"""Routes to packed products, as fixtures: a stand-in, the real ones on emulated kernels, and as they are on a GPU."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from tests.nn.emulated_kernels import emulated
from tests.nn.unpacked_route import Unpacked
from tmask.nn.packing import attaching, copies, operators, payoff, routes, verification

CUDA = torch.device("cuda", 0)


def forget(monkeypatch):
    """What other tests have verified and measured."""
    monkeypatch.setattr(verification, "_verified", set())
    monkeypatch.setattr(payoff, "_paid", {})


@contextmanager
def on_emulated_kernels(name, monkeypatch):
    """A real route as the only one, and on the CPU, where its kernels are emulated."""
    forget(monkeypatch)
    found = routes.ROUTES[name]
    monkeypatch.setattr(type(found), "problem", lambda self, device: "")
    monkeypatch.setattr(type(found), "device_type", "cpu")
    monkeypatch.setattr(routes, "ROUTES", {name: found})
    for module in (attaching, copies, operators):
        monkeypatch.setattr(module, "ROUTES", routes.ROUTES)
    with emulated():
        yield found


@pytest.fixture(params=["unpacked", "emulated cutlass", "emulated cusparselt", "cutlass", "cusparselt"])
def route(request, monkeypatch):
    """A route and its device: the stand-in; the real ones, on kernels emulated on the CPU, and as they are on a GPU."""
    forget(monkeypatch)
    kind, _, name = request.param.rpartition(" ")
    if name == "unpacked":
        monkeypatch.setitem(routes.ROUTES, name, Unpacked())
        yield routes.ROUTES[name], torch.device("cpu")
    elif kind == "emulated":
        with on_emulated_kernels(name, monkeypatch) as found:
            yield found, torch.device("cpu")
    else:
        if problem := routes.ROUTES[name].problem(CUDA):
            pytest.skip(problem)
        yield routes.ROUTES[name], CUDA


@pytest.fixture
def unpacked(monkeypatch):
    """The stand-in alone."""
    forget(monkeypatch)
    monkeypatch.setitem(routes.ROUTES, "unpacked", Unpacked())
    return routes.ROUTES["unpacked"]


@pytest.fixture
def emulated_cutlass():
    """The CUTLASS route, on emulated kernels."""
    with emulated():
        yield routes.ROUTES["cutlass"]


@pytest.fixture
def emulated_cusparselt(monkeypatch):
    """The cuSPARSELt route, which layers on the CPU then take, on emulated kernels."""
    with on_emulated_kernels("cusparselt", monkeypatch) as route:
        yield route

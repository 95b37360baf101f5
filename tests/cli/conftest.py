from __future__ import annotations

import pytest
from safetensors.numpy import save_file

import tmask
from tests.cli.harness import TENSORS, Failing, Tiny
from tmask.sharding import layer_run
from tmask.solving import registry


@pytest.fixture
def weights(tmp_path):
    """The path of a small model."""
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    return path


@pytest.fixture
def test_solvers(monkeypatch):
    """`tiny` and `failing`, known for one test."""
    monkeypatch.setattr(registry, "_registered", {})
    tmask.register_solver(Tiny)
    tmask.register_solver(Failing)


@pytest.fixture
def interrupt_after(monkeypatch):
    """A function that makes solving a layer raise at its call of this number; its list holds the weights solved."""
    real = tmask.solve

    def install(calls, error=KeyboardInterrupt):
        solved: list = []

        def wrapped(weight, *args, **kwargs):
            if len(solved) == calls:
                raise error
            solved.append(weight)
            return real(weight, *args, **kwargs)

        monkeypatch.setattr(layer_run, "solve", wrapped)
        return solved

    return install

"""Methods by name, and other people's classes."""

import importlib
from dataclasses import dataclass
from typing import ClassVar

import pytest

from tests.nn.methods.problems import problem
from tmask.errors import InvalidProblemError
from tmask.nn.methods import registry
from tmask.nn.methods.method import Found, Method
from tmask.nn.methods.support import Plain


@dataclass(frozen=True, kw_only=True)
class Signed(Method):
    name: ClassVar[str] = "signed"

    def _prune(self, problem, goal):
        found = problem.support.project(goal.weight.clamp_min(0))
        return Found(found.mask, goal.weight, found.worth, found.solver)


@pytest.fixture
def signed(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    return registry.register_method(Signed)


def test_names_are_those_of_the_classes():
    for name in registry.METHODS:
        assert registry.get_method(name).name == name


def test_targets_exist():
    for target in registry.METHODS.values():
        module, _, attribute = target.partition(":")
        assert issubclass(getattr(importlib.import_module(f"tmask.nn.methods.{module}"), attribute), Method)


def test_unknown_name_lists_those_that_exist():
    with pytest.raises(InvalidProblemError, match=r"alpz.*magnitude, wanda, adaprune, sparsegpt, alps"):
        registry.get_method("alpz")


def test_unknown_setting_lists_those_that_exist():
    with pytest.raises(InvalidProblemError, match=r"'rho'.*damping.*penalty"):
        registry.get_method("alps", rho=1)


def test_registered_method_is_found(signed):
    assert registry.available_methods()[-1] == "signed"
    found = registry.get_method("signed", damping=0.1).prune(problem(Plain("2:4")))
    assert bool((found.mask.sum(1) == 8).all())


def test_what_is_no_method_is_refused(signed):
    with pytest.raises(InvalidProblemError, match="extends Method"):
        registry.register_method(dict)

    @dataclass(frozen=True, kw_only=True)
    class Impostor(Signed):
        name: ClassVar[str] = "wanda"

    with pytest.raises(InvalidProblemError, match="exists already"):
        registry.register_method(Impostor)

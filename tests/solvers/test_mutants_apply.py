"""The mutants of the nightly tests still fit the code: what they break stands there, so do the tests that notice."""

import ast

import pytest

from tests.mutants import MUTANTS, ROOT


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_what_a_mutant_changes_stands_once_in_its_file(name):
    mutant = MUTANTS[name]
    assert mutant.new != mutant.old
    assert (mutant.package / mutant.file).read_text().count(mutant.old) == 1, (
        "the code has changed, and so must this mutant"
    )


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_what_notices_a_mutant_exists(name):
    mutant = MUTANTS[name]
    tree = ast.parse((ROOT / mutant.tests).read_text())
    tests = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    for part in mutant.chosen.split(" or "):
        assert any(part in test for test in tests), f"{mutant.tests} has no test {part!r}"

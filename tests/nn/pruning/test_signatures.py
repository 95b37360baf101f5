"""What the ways into pruning share: a keyword has one default, kind, type and description wherever it stands."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict

import pytest

from tmask.cli.convert import convert as command
from tmask.nn import adaprune, collect_grams, convert, reconstruct, reconstruction_losses, sparsegpt

ENTRIES = (adaprune, sparsegpt, convert, reconstruct, reconstruction_losses, collect_grams)


def parameters():
    """By keyword, the parameter of each entry that has it, by the entry's name."""
    found = defaultdict(dict)
    for entry in ENTRIES:
        for name, parameter in inspect.signature(entry).parameters.items():
            found[name][entry.__name__] = parameter
    return {name: by_entry for name, by_entry in found.items() if len(by_entry) > 1}


def described(entry):
    """The arguments that a docstring describes, with the text of each in one line."""
    args = re.search(r"\n    Args:\n(.*?)(\n    \S|\Z)", entry.__doc__, re.DOTALL)
    found = {}
    for names, text in re.findall(r"^ {8}(\w[\w, ]*): (.*?)(?=^ {8}\w|\Z)", args[1] if args else "", re.M | re.S):
        found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


SHARED = parameters()


@pytest.mark.parametrize("name", sorted(SHARED))
def test_a_keyword_is_the_same_wherever_it_stands(name):
    for aspect in ("default", "kind", "annotation"):
        values = {entry: getattr(parameter, aspect) for entry, parameter in SHARED[name].items()}
        assert len({*map(str, values.values())}) == 1, (aspect, values)


@pytest.mark.parametrize("name", sorted(SHARED))
def test_a_keyword_is_described_once(name):
    texts = {text for entry in ENTRIES if (text := described(entry).get(name))}
    assert len(texts) == 1, texts


def test_every_argument_is_described_in_its_place_or_in_adaprunes():
    common = described(adaprune)
    assert len(common) == len(inspect.signature(adaprune).parameters)
    for entry in ENTRIES:
        left = inspect.signature(entry).parameters.keys() - described(entry).keys()
        assert left <= common.keys(), (entry.__name__, left - common.keys())
        assert not left or "arguments" in entry.__doc__, entry.__name__
        assert not left or "those of `adaprune`" in entry.__doc__, entry.__name__


def test_whoever_takes_a_method_takes_its_settings():
    for entry in ENTRIES:
        names = inspect.signature(entry).parameters.keys()
        assert ("method" in names) == ("steps" in names) == ("learning_rate" in names)


def test_the_command_has_the_defaults_of_the_function():
    function, options = inspect.signature(convert).parameters, inspect.signature(command).parameters
    both = {"confidence", "solver", "score", "method", "damping"}
    assert {name: options[name].default for name in both} == {name: function[name].default for name in both}
    assert options["side"].default == function["m"].default

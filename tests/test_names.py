"""One word for one thing: no two modules define a public class or type alias of the same name."""

import ast
from collections import defaultdict

import pytest

pytest.importorskip("networkx")

from bench.house import modules

# Names with several definitions, and why they stay.
EXCEPTIONS = {
    "SparsifierCallback": "a user of one training library sees one of them, under its documented path",
    "Array": "what kernels of a file take; compiled files share no imports that they do not need",
    "Counts": "an array type, short for readers of its own file",
    "Operand": "what a vector of the kernels is added to, and what a sparse product multiplies; no file sees both",
    "Values": "an array type, short for readers of its own file",
}


def public_types(source):
    """Classes and type aliases at the top of a module: assigned names in CamelCase, type variables aside."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign) and not _makes_type_variable(node.value):
            for target in node.targets:
                # A single capital is a type variable or a size, and all capitals a constant.
                if isinstance(target, ast.Name) and target.id[0].isupper() and not target.id.isupper():
                    yield target.id
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
            yield node.target.id


def _makes_type_variable(value):
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "TypeVar"


def definitions():
    found = defaultdict(list)
    for module, path in modules().items():
        for name in public_types(path.read_text()):
            if not name.startswith("_"):
                found[name].append(module)
    return found


def test_no_public_type_has_the_name_of_another():
    clashes = {name: where for name, where in definitions().items() if len(where) > 1}
    assert not {name: where for name, where in clashes.items() if name not in EXCEPTIONS}
    assert set(EXCEPTIONS) <= set(clashes), "these have one definition now: strike them off the exceptions"


def test_classes_and_aliases_are_seen():
    source = (
        "class Mask: pass\nMasks = list[Mask]\nItem = TypeVar('Item')\nLIMIT = 3\nnumber = 1\nPair: TypeAlias = tuple\n"
    )
    assert [*public_types(source)] == ["Mask", "Masks", "Pair"]

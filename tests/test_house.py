"""Which folder may import which: the table of `bench.house`, held against the import statements."""

import networkx
import pytest

pytest.importorskip("networkx")

from bench import house

GRAPH = house.import_graph()
PARTS = house.part_graph(GRAPH)


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_imports_follow_the_table(module):
    part = house.part_of(module)
    wrong = [name for name in GRAPH.successors(module) if house.part_of(name) not in house.allowed(part)]
    assert not wrong, f"{module} imports {wrong}; {part} may import {sorted(house.allowed(part))}"


def test_the_table_lists_no_import_that_nobody_makes():
    for part, names in house.MAY_IMPORT.items():
        unused = {*names.split()} - {*PARTS.successors(part)}
        assert not unused, f"{part} no longer imports {sorted(unused)}"


def test_no_imports_run_in_a_circle():
    assert house.circles(GRAPH) == []
    assert house.circles(PARTS) == []


def test_a_circle_would_be_seen():
    graph = networkx.DiGraph([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")])
    assert house.circles(graph) == [["a", "b", "c"]]


def test_late_imports_count(tmp_path):
    file = tmp_path / "late.py"
    file.write_text("def f():\n    from tmask import errors\n    import tmask.cli.app\n    import numpy\n")
    assert [*house.imports(file, house.modules())] == ["tmask.errors", "tmask.cli.app"]


def test_no_folder_holds_more_files_than_one_can_look_over():
    crowded = {folder: files for folder, files in house.files_per_folder().items() if files > house.MOST_FILES}
    assert not crowded

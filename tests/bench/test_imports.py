"""Benchmarks stand beside the command line, not on it: what both need lies below both."""

from pathlib import Path

import pytest

import bench
from bench.house import imports, modules

FILES = sorted(Path(bench.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_benchmarks_import_nothing_of_the_command_line(path):
    assert not [name for name in imports(path, modules()) if name.startswith("tmask.cli")]

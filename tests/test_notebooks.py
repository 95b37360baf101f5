"""The notebooks of the tutorials run from top to bottom, and show pictures."""

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parent.parent
BOOKS = sorted((ROOT / "docs/tutorials").glob("*.ipynb"))


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_it_runs(path, monkeypatch, tmp_path):
    for library in ("torch", "transformers", "matplotlib", "numba"):
        pytest.importorskip(library)
    # Of the kernel, which is a process of its own; one thread, since tests run side by side.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "solvers")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    book = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    kinds = [kind for cell in book.cells for out in cell.get("outputs", []) for kind in out.get("data", {})]
    assert "image/png" in kinds
    assert "text/html" in kinds


def test_they_are_stored_with_what_they_show():
    assert len(BOOKS) == 3
    for path in BOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert any("image/png" in out.get("data", {}) for cell in cells for out in cell.get("outputs", [])), path

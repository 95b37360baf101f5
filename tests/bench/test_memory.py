"""A row for each command and size, and a page from the rows alone."""

import subprocess

import pytest

from bench import memory
from bench.memory_large import measure_large
from bench.rows import read_rows


def test_rows_and_page(tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "memory.csv"
    memory.main(layers="2", side=64, out=out, report=False)
    rows = read_rows(out)
    commands = [*memory.COMMANDS, "convert"]
    assert [(row["command"], row["layers"]) for row in rows] == [(c, n) for n in ("1", "2") for c in commands]
    # In processes of their own: one that loads little holds less than those that have compiled kernels.
    peaks = {row["command"]: float(row["peak_mib"]) for row in rows}
    assert 10 < peaks["diversity"] < peaks["solve"] < 1000
    text = out.with_suffix(".md").read_text()
    assert text.count("\n| ") == 1 + len(commands)
    memory.main(layers="9", side=64, out=out, report=True)
    assert out.with_suffix(".md").read_text() == text
    memory.main(part="large", gigabytes=1e-4, large_side=64, out=out, folder=tmp_path)
    (row,) = read_rows(tmp_path / "memory_large.csv")
    assert (row["layers"], row["limit_mib"]) == ("6", "6144")
    assert float(row["gigabytes"]) == pytest.approx(1e-4, rel=0.1)
    assert "in shards (6 layers of 64 x 64 float32, 4:8)" in out.with_suffix(".md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"memory.csv", "memory.md", "memory_large.csv"}


def test_the_limit_holds_and_a_full_disk_is_said_before(tmp_path, monkeypatch):
    with pytest.raises(subprocess.CalledProcessError):
        measure_large(1e-4, 64, 100, tmp_path)
    with pytest.raises(OSError, match="no room"):
        measure_large(1e9, 8192, 100, tmp_path)

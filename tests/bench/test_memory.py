"""A row for each command and size, and a page from the rows alone."""

from bench import memory
from bench.rows import read_rows


def test_rows_and_page(tmp_path):
    out = tmp_path / "memory.csv"
    memory.main(layers="2", side=64, out=out, report=False)
    rows = read_rows(out)
    assert [(row["command"], row["layers"]) for row in rows] == [(c, n) for n in ("1", "2") for c in memory.COMMANDS]
    # In processes of their own: one that loads little holds less than those that have compiled kernels.
    peaks = {row["command"]: float(row["peak_mib"]) for row in rows}
    assert 10 < peaks["diversity"] < peaks["solve"] < 1000
    text = out.with_suffix(".md").read_text()
    assert text.count("\n| ") == 1 + len(memory.COMMANDS)
    memory.main(layers="9", side=64, out=out, report=True)
    assert out.with_suffix(".md").read_text() == text

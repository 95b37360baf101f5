"""The measurement of what `midpoint-torch` could be made of."""

import pytest

pytest.importorskip("torch")

from bench.torch_choices import rows_of


def test_all_ways_are_measured_on_the_same_entries():
    rows = list(rows_of(2, 4, 1 << 8, 2, parts=("order", "small")))
    assert [(row["part"], row["what"], row["repeat"]) for row in rows] == [
        *(("order", what, repeat) for repeat in (-1, 0, 1) for what in ("network", "topk", "sort")),
        *(("small", what, repeat) for repeat in (-1, 0, 1) for what in ("closed form", "rounds")),
    ]
    assert all(row["ns_per_entry"] == pytest.approx(1e9 * row["seconds"] / 256) for row in rows)

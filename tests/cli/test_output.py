"""Tables that fit."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tmask.cli import output

ROWS = [
    {"solver": "augmenting-paths", "time": "1234567890", "gap": "0.123456%", "a long heading": "1"},
    {"solver": "bi-nm", "time": "2", "gap": "7.05%", "a long heading": "2"},
]


def shown(monkeypatch, width):
    stream = io.StringIO()

    def console(*args, **kwargs):
        return Console(file=stream, width=width, force_terminal=True, color_system=None)

    monkeypatch.setattr(output, "Console", console)
    output.show_table("Title [/x]", ROWS, texts=("solver",))
    return stream.getvalue()


@pytest.mark.parametrize("width", [36, 40, 50, 60, 80, 200])
def test_a_table_loses_nothing_in_a_narrow_terminal(monkeypatch, width):
    text = shown(monkeypatch, width)
    for row in ROWS:
        for column, value in row.items():
            assert column in text
            assert value in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width


def test_each_part_of_a_table_names_its_rows(monkeypatch):
    assert shown(monkeypatch, 200).count("augmenting-paths") == 1
    narrow = shown(monkeypatch, 40)
    assert narrow.count("augmenting-paths") == narrow.count("Title [/x]") == 3


def test_long_names_fold():
    assert list(output._fitting([{"layer": "x" * 500, "shape": "8x8"}], ("layer",), 60)) == [["layer", "shape"]]

"""Tables that fit, and numbers in words."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from tmask.cli import report

ROWS = [
    {"solver": "augmenting-paths", "time": "1234567890", "gap": "0.123456%", "a long heading": "1"},
    {"solver": "bi-nm", "time": "2", "gap": "7.05%", "a long heading": "2"},
]


def shown(monkeypatch, width):
    stream = io.StringIO()

    def console(*args, **kwargs):
        return Console(file=stream, width=width, force_terminal=True, color_system=None)

    monkeypatch.setattr(report, "Console", console)
    report.show_table("Title [/x]", ROWS, texts=("solver",))
    return stream.getvalue()


@pytest.mark.parametrize("width", [36, 40, 50, 60, 80, 200])
def test_a_table_loses_nothing_in_a_narrow_terminal(monkeypatch, width):
    output = shown(monkeypatch, width)
    for row in ROWS:
        for column, value in row.items():
            assert column in output
            assert value in output
    assert max(len(line.rstrip()) for line in output.splitlines()) <= width


def test_each_part_of_a_table_names_its_rows(monkeypatch):
    assert shown(monkeypatch, 200).count("augmenting-paths") == 1
    narrow = shown(monkeypatch, 40)
    assert narrow.count("augmenting-paths") == narrow.count("Title [/x]") == 3


def test_long_names_fold():
    assert list(report._fitting([{"layer": "x" * 500, "shape": "8x8"}], ("layer",), 60)) == [["layer", "shape"]]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.000257, "0.000257"), (3e-7, "3e-07"), (1.5, "1.50"), (22512.4, "22,512"), (math.nan, "-")],
)
def test_numbers(value, text):
    assert report.number(value) == text


@pytest.mark.parametrize(("value", "text"), [(710, "710"), (7300, "7.30 k"), (2.7e7, "27.0 M"), (math.nan, "-")])
def test_amounts(value, text):
    assert report.amount(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (math.nan, "-"), (0.0, "0"), (0.5, "50.00%"), (1e-9, "1e-07%"), (-0.25, "-25.00%")]
)
def test_shares(value, text):
    assert report.percent(value) == text

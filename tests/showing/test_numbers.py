"""Numbers in words."""

import math

import pytest

from tmask.showing.numbers import amount, number, percent


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.000257, "0.000257"), (3e-7, "3e-07"), (1.5, "1.50"), (22512.4, "22,512"), (math.nan, "-")],
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(("value", "text"), [(710, "710"), (7300, "7.30 k"), (2.7e7, "27.0 M"), (math.nan, "-")])
def test_amounts(value, text):
    assert amount(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (math.nan, "-"), (0.0, "0"), (0.5, "50.00%"), (1e-9, "1e-07%"), (-0.25, "-25.00%")]
)
def test_shares(value, text):
    assert percent(value) == text

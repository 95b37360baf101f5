"""Which pattern a layer's zeros nearly satisfy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmask.blocks.pattern import Pattern
from tmask.conversion import Fit, binomial_tail, fitting_pattern, observed_share
from tmask.errors import InvalidProblemError


def sparse(shape, zeros, seed=0):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < zeros, 0, rng.standard_normal(shape)).astype(np.float32)


@settings(max_examples=50)
@given(st.integers(1, 6), st.integers(0, 6), st.floats(0, 1))
def test_the_tail_is_that_of_all_outcomes(m, k, p):
    outcomes = itertools.product((0, 1), repeat=m)
    expected = sum(math.prod(p if zero else 1 - p for zero in o) for o in outcomes if sum(o) >= k)
    assert binomial_tail(m, k, p) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("zeros", "m", "confidence", "plain", "transposable"),
    [
        (0.5, 4, 0.9, "3:4", "4:4"),  # P(1) = 0.9375, squared 0.879
        (0.5, 8, 0.9, "6:8", "6:8"),  # P(2) = 0.965, P(3) = 0.855
        (0.7, 8, 0.9, "4:8", "5:8"),  # P(4) = 0.942, squared 0.887
        (0.5, 8, 0.999, "8:8", "8:8"),
        (0.0, 8, 0.5, "8:8", "8:8"),
        (1.0, 8, 0.9, "1:8", "1:8"),
    ],
)
def test_patterns_by_hand(zeros, m, confidence, plain, transposable):
    weight = np.ones(1000, np.float32)
    weight[: int(zeros * 1000)] = 0
    weight = np.random.default_rng(0).permutation(weight).reshape(40, 25)
    for expected, both in ((plain, False), (transposable, True)):
        fit = fitting_pattern(weight, m, transposable=both, confidence=confidence)
        assert str(fit.pattern) == expected
        assert fit.zeros == zeros
        assert fit.dense == (fit.pattern.n == m)


@settings(max_examples=30)
@given(st.floats(0.05, 0.95), st.sampled_from([4, 8]), st.booleans(), st.floats(0.1, 0.99))
def test_the_pattern_is_the_sparsest_within_the_level(zeros, m, transposable, confidence):
    fit = fitting_pattern(sparse((24, 24), zeros), m, transposable=transposable, confidence=confidence)
    power = 2 if transposable else 1
    k = m - fit.pattern.n
    assert fit.expected == binomial_tail(m, k, fit.zeros) ** power
    assert k == 0 or fit.expected > confidence
    assert k == m - 1 or binomial_tail(m, k + 1, fit.zeros) ** power <= confidence


def test_zeros_anywhere_fit_as_expected():
    weight = sparse((512, 512), 0.6)
    plain = fitting_pattern(weight, 8, transposable=False)
    assert plain.observed == pytest.approx(plain.expected, abs=0.01)
    both = fitting_pattern(weight, 8)
    assert both.expected - 0.01 <= both.observed <= both.expected**0.5 + 0.01  # the tail squared is a lower bound


def test_zeros_that_cluster_show_in_the_observed_share():
    weight = np.ones((64, 64), np.float32)
    weight[:, 32:] = 0
    fit = fitting_pattern(weight, 8, transposable=False)
    assert (str(fit.pattern), fit.observed) == ("6:8", 0.5)


@pytest.mark.parametrize("transposable", [True, False])
def test_the_observed_share_by_counting(transposable):
    rng = np.random.default_rng(0)
    nonzero = rng.random((6, 10, 2)) < 0.5  # in two groups of 3 outputs; tiles cut short both ways
    pattern, fitting = Pattern(2, 4), 0
    for o, c, k in np.ndindex(nonzero.shape):
        tile = nonzero[o // 3 * 3 : o // 3 * 3 + 3, c // 4 * 4 : c // 4 * 4 + 4, k]
        row, col = tile[o % 3].sum() <= 2, tile[:, c % 4].sum() <= 2
        fitting += row and (col or not transposable)
    found = observed_share(nonzero, pattern, transposable=transposable, groups=2, layout="convolution")
    assert found == pytest.approx(fitting / nonzero.size)


def test_an_nm_mask_fits_itself():
    weight = np.zeros((16, 16), np.float32)
    weight[np.add.outer(np.arange(16), np.arange(16)) % 4 < 2] = 1
    fit = fitting_pattern(weight, 4, confidence=0.4)
    assert fit == Fit(Pattern(2, 4), True, 0.5, binomial_tail(4, 2, 0.5) ** 2, 1.0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"confidence": "high"}, "between 0 and 1"),
        ({"m": 64}, "at most 32"),
        ({"weight": np.full((4, 4), np.nan, np.float32)}, "NaN"),
        ({"weight": np.ones(4, np.float32)}, "at least two axes"),
        ({"weight": np.ones((4, 4), np.int64)}, "dtype int64"),
        ({"groups": 3}, "3 groups do not divide 4"),
    ],
)
def test_bad_input(arguments, says):
    arguments = {"weight": np.ones((4, 4), np.float32), "m": 4} | arguments
    with pytest.raises(InvalidProblemError, match=says):
        fitting_pattern(**arguments)

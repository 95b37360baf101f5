"""Patterns for the layers of a model under one budget, against brute force."""

import itertools
import math
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tmask
from tmask.allocation.allocating import Allocation, allocate, retained_losses
from tmask.allocation.knapsack import choose
from tmask.blocks.pattern import Pattern

pytest.importorskip("ortools")

PATTERNS = ("1:4", "2:4", "3:4", "4:4", "1:8", "5:8", "1:3")


def least_loss(losses, sizes, density):
    """By trying every combination; None where none fits."""
    room = Fraction(math.nextafter(density, 2)) * sum(sizes.values())
    best = None
    for combination in itertools.product(*losses.values()):
        patterns = [Pattern.parse(text) for text in combination]
        kept = sum(Fraction(p.n, p.m) * size for p, size in zip(patterns, sizes.values(), strict=True))
        if kept <= room:
            loss = math.fsum(losses[name][text] for name, text in zip(losses, combination, strict=True))
            best = loss if best is None else min(best, loss)
    return best


@st.composite
def problems(draw):
    names = [f"layer{k}" for k in range(draw(st.integers(1, 4)))]
    loss = st.one_of(st.floats(0, 1e3), st.integers(0, 3).map(float), st.floats(0, 1e-300), st.floats(0, 1e300))
    losses = {name: draw(st.dictionaries(st.sampled_from(PATTERNS), loss, min_size=1, max_size=5)) for name in names}
    sizes = {name: draw(st.integers(1, 10**6)) for name in names}
    return losses, sizes, draw(st.floats(0.05, 1))


@settings(max_examples=100)
@given(problems())
def test_no_combination_loses_less(problem):
    losses, sizes, density = problem
    best = least_loss(losses, sizes, density)
    if best is None:
        with pytest.raises(tmask.InvalidProblemError, match="cannot be met"):
            allocate(losses, sizes, density)
        return
    found = allocate(losses, sizes, density)
    assert found.loss == math.fsum(losses[name][str(pattern)] for name, pattern in found.patterns.items())
    assert found.density <= density + 1e-12
    assert best <= found.loss * (1 + 1e-12)
    assert found.loss <= best * (1 + 1e-12) + found.rounding
    largest = sum(max(options.values()) for options in losses.values())
    assert found.rounding <= len(losses) * 2**-45 * largest


LOSSES = {"a": {"1:4": 8.0, "2:4": 3.0, "4:4": 0.0}, "b": {"1:4": 2.0, "2:4": 1.0}}
SIZES = {"a": 100, "b": 300}
SHAPES = {"depthwise": (64, 1, 3, 3), "fc": (64, 64)}
MANY = {f"1:{m}": 1.0 for m in range(1, 33)}


def test_what_is_chosen():
    found = allocate(LOSSES, SIZES, 0.4375)
    assert isinstance(found, Allocation)
    assert found.patterns == {"a": Pattern(4, 4), "b": Pattern(1, 4)}  # 100 + 75 of 400
    assert (found.loss, found.density, found.budget, found.rounding) == (2.0, 0.4375, 0.4375, 0.0)
    assert found.table() == [
        {"layer": "a", "size": 100, "pattern": "4:4", "density": 1.0, "loss": 0.0},
        {"layer": "b", "size": 300, "pattern": "1:4", "density": 0.25, "loss": 2.0},
    ]
    assert allocate(LOSSES, SIZES, 0.43).patterns == {"a": Pattern(2, 4), "b": Pattern(1, 4)}
    assert allocate(LOSSES, SIZES, 1).loss == 1.0
    assert allocate(LOSSES, SIZES, 0.25).loss == 10.0


@pytest.mark.parametrize("density", [1 / 3, Fraction(1, 3), 0.34])
def test_a_third_allows_one_of_three(density):
    assert allocate({"a": {"1:3": 1.0}}, {"a": 10**9}, density).density == 1 / 3


def test_rounded_losses_say_how_much_they_can_cost():
    found = allocate({"a": {"1:4": 1.0, "2:4": 1e-30}}, {"a": 4}, 0.5)
    assert found.patterns["a"] == Pattern(2, 4)
    assert 0 < found.rounding < 1e-12


def test_hundreds_of_layers():
    rng = np.random.default_rng(0)
    losses = {f"l{k}": {f"{n}:8": (8 - n) ** 2 * rng.random() for n in range(1, 9)} for k in range(200)}
    sizes = {name: int(rng.integers(10**3, 10**8)) for name in losses}
    found = allocate(losses, sizes, 0.5)
    uniform = sum(options["4:8"] for options in losses.values())
    assert found.loss < 0.8 * uniform
    assert 0.4999 < found.density <= 0.5
    assert allocate(losses, sizes, 0.5) == found


@pytest.mark.parametrize(
    ("losses", "sizes", "density", "says"),
    [
        ({}, {}, 0.5, "name no layer"),
        (LOSSES, {"a": 1}, 0.5, "sizes lack the layers b"),
        (LOSSES, SIZES | {"c": 1, "d": 2}, 0.5, "losses lack the layers c, d"),
        (LOSSES, SIZES | {"b": 0}, 0.5, "layer 'b': size 0"),
        (LOSSES, SIZES | {"b": 2.5}, 0.5, "layer 'b': size 2.5"),
        (LOSSES, SIZES | {"b": (8, 2.5)}, 0.5, r"layer 'b': size \(8, 2.5\)"),
        (LOSSES, SIZES | {"b": "88"}, 0.5, "layer 'b': size '88'"),
        (LOSSES, SIZES | {"b": (8,)}, 0.5, "layer 'b': .*at least two axes"),
        (LOSSES | {"b": {}}, SIZES, 0.5, "layer 'b': no pattern"),
        (LOSSES | {"b": {"1:4": -1.0}}, SIZES, 0.5, r"layer 'b', pattern 1:4: loss -1\.0"),
        (LOSSES | {"b": {"1:4": math.nan}}, SIZES, 0.5, "loss nan must be finite"),
        (LOSSES | {"b": {"1:4": math.inf}}, SIZES, 0.5, "loss inf must be finite"),
        (LOSSES | {"b": {"1:4": 1.0, " 1:4": 2.0}}, SIZES, 0.5, "1:4 is given twice"),
        (LOSSES | {"b": {"4:1": 1.0}}, SIZES, 0.5, "did you mean 1:4"),
        (LOSSES, SIZES, 0.2, r"density 0\.2 cannot be met: .* 0\.25 of the weights are kept"),
        (LOSSES, SIZES, 0.0, "density 0.0: must be"),
        (LOSSES, SIZES, math.nan, "density nan"),
        (LOSSES, SIZES, "0.5", "density '0.5'"),
        (LOSSES, SIZES, True, "density True"),
        ({"a": {"1:4": 1e308}, "b": {"1:4": 1e308}}, SIZES, 0.5, "overflows"),
        ({name: MANY for name in "ab"}, {"a": 10**9 + 7, "b": 10**9 + 9}, 0.5, "64-bit sums"),
    ],
)
def test_bad_input(losses, sizes, density, says):
    with pytest.raises(tmask.InvalidProblemError, match=says):
        allocate(losses, sizes, density)


def test_without_ortools(monkeypatch):
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    with pytest.raises(tmask.SolverUnavailableError, match=r'pip install "tmask\[ortools\]"'):
        allocate(LOSSES, SIZES, 0.5)


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 2), st.sampled_from([(1, 4), (2, 4), (3, 4), (2, 8)]))
def test_the_budget_is_what_masks_keep(rows, cols, groups, pattern):
    """With tiles cut short, too: no mask keeps more than is counted, and that of equal scores keeps as many."""
    shape, n, m = (rows * groups, cols, 2, 1), *pattern
    found = allocate({"a": {f"{n}:{m}": 0.0}}, {"a": shape}, 1.0, groups={"a": groups})
    mask = tmask.solve(np.ones(shape, np.float32), f"{n}:{m}", groups=groups).mask
    (choice,) = found.choices
    assert choice.size == math.prod(shape)
    assert choice.kept == mask.sum()
    assert found.density == found.table()[0]["density"] == pytest.approx(mask.mean())
    rng = np.random.default_rng(rows * cols)
    assert tmask.solve(rng.random(shape, np.float32), f"{n}:{m}", groups=groups).mask.sum() <= choice.kept


def test_layers_of_narrow_groups_do_not_seem_sparse():
    """A depthwise convolution has tiles of one weight, which any pattern keeps."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    losses = retained_losses(weights, ["1:8", "4:8", "8:8"], groups={"depthwise": 64})
    found = allocate(losses, SHAPES, 0.5, groups={"depthwise": 64})
    masks = {
        name: tmask.solve(weights[name], pattern, groups=64 if name == "depthwise" else 1).mask
        for name, pattern in found.patterns.items()
    }
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert kept / sum(mask.size for mask in masks.values()) == found.density <= 0.5
    with pytest.raises(tmask.InvalidProblemError, match="groups are given for c"):
        allocate(losses, SHAPES, 0.5, groups={"c": 2})


def test_numbers_of_numpy():
    found = allocate({"a": {"2:4": 1.0}}, {"a": np.int64(64)}, np.float32(0.5))
    assert (found.density, found.budget) == (0.5, 0.5)


def test_no_answer_is_an_error():
    with pytest.raises(tmask.SolverFailedError, match="INFEASIBLE"):
        choose({"a": {"x": 1}}, {"a": {"x": 5}}, 4)


def test_losses_from_the_best_masks():
    rng = np.random.default_rng(0)
    weights = {
        "conv": rng.standard_normal((8, 4, 3, 1)).astype(np.float32),
        "fc": rng.standard_normal((12, 8)).astype(np.float32),
    }
    losses = retained_losses(weights, ["1:4", "2:4", "4:4", "2:4"], "patterns", groups={"conv": 2})
    assert list(losses) == list(weights)
    for name, groups in (("conv", 2), ("fc", 1)):
        assert list(losses[name]) == [Pattern(1, 4), Pattern(2, 4), Pattern(4, 4)]
        solution = tmask.solve(weights[name], "2:4", "patterns", groups=groups)
        assert losses[name][Pattern(2, 4)] == pytest.approx(solution.total - solution.objective)
        assert losses[name][Pattern(4, 4)] == pytest.approx(0, abs=1e-5)
    found = allocate(losses, {name: weight.size for name, weight in weights.items()}, 0.5)
    assert found.density <= 0.5


@pytest.mark.parametrize(
    ("weights", "patterns", "groups", "says"),
    [
        ({}, ["2:4"], None, "at least one layer"),
        ({"a": np.ones((4, 4), np.float32)}, [], None, "one pattern"),
        ({"a": np.ones((4, 4), np.float32)}, ["2:4"], {"b": 2}, "given for b"),
        ({"a": np.full((4, 4), np.nan, np.float32)}, ["2:4"], None, "layer 'a': .*NaN"),
    ],
)
def test_losses_of_bad_input(weights, patterns, groups, says):
    with pytest.raises(tmask.InvalidProblemError, match=says):
        retained_losses(weights, patterns, "patterns", groups=groups)

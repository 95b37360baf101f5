"""ALPS: how near to the best of all masks it comes, and what its parts are worth."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nn.methods.problems import problem, problems
from tmask.errors import InvalidProblemError
from tmask.nn.methods.goal import goal_of
from tmask.nn.methods.refit import Refit, refit
from tmask.nn.methods.registry import get_method
from tmask.nn.methods.support import Plain, Transposable, Unstructured

EXACT = Refit(by="cholesky")
ROWS = [row for row in itertools.product((False, True), repeat=4) if sum(row) == 2]
TWO_FOUR = [rows for rows in itertools.product(ROWS, repeat=4) if not any(np.sum(rows, 0) != 2)]


def loss(drawn, weight):
    return float(goal_of(drawn).excess(weight).sum())


def best_of_all(drawn):
    """The least that any 2:4 transposable mask of a 4x4 layer comes to."""
    return min(loss(drawn, refit(drawn.weight, torch.tensor(mask), drawn, EXACT)) for mask in TWO_FOUR)


def test_there_are_90_masks():
    assert len(TWO_FOUR) == 90


@pytest.mark.parametrize(("patience", "very_best", "mean"), [(3, 0.5, 1.25), (10, 0.7, 1.05)])
def test_near_the_best_of_all_masks(patience, very_best, mean):
    """Of 4x4 layers whose inputs nearly span two dimensions, where masks differ most."""
    ratios = []
    for seed in range(60):
        drawn = problem(Transposable("2:4"), 4, 4, seed, torch.float64, cross=bool(seed % 2))
        found = get_method("alps", refit=EXACT, patience=patience).prune(drawn)
        ratios.append(loss(drawn, found.weight) / best_of_all(drawn))
    assert min(ratios) > 1 - 1e-9
    assert np.mean(np.array(ratios) < 1 + 1e-9) >= very_best
    assert np.median(ratios) < 1.001
    assert np.mean(ratios) < mean


@pytest.mark.parametrize(
    "support", [Transposable("2:4"), Transposable("4:8"), Plain("2:4"), Unstructured(0.5)], ids=str
)
@given(st.integers(0, 2**16), st.booleans())
@settings(max_examples=25)
def test_better_than_wanda_with_refit(support, seed, cross):
    drawn = problem(support, 32, 32, seed, torch.float64, cross, samples=500)
    alps, wanda = (loss(drawn, get_method(name, refit=EXACT).prune(drawn).weight) for name in ("alps", "wanda"))
    assert alps <= wanda


def test_exact_projection_is_better_than_greedy():
    """Taken together, as a heuristic may be lucky once."""
    total = {"auto": 0.0, "greedy-keep": 0.0}
    for solver, seed in itertools.product(total, range(8)):
        drawn = problem(Transposable("4:8", solver), 64, 64, seed, samples=1000)
        total[solver] += loss(drawn, get_method("alps").prune(drawn).weight)
    assert total["auto"] < total["greedy-keep"]


@given(problems(Transposable("2:4"), Transposable("3:8")))
@settings(max_examples=30)
def test_masks_are_proven_best_for_the_last_scores(drawn):
    worth = get_method("alps").prune(drawn).worth
    assert worth.optimality_gap == pytest.approx(0, abs=1e-9)


def test_each_projection_is_of_squares(monkeypatch):
    """The last one is asked for once more, with a proof: of the same scores."""
    scores = []
    project = Plain.project

    def noting(support, score, *args, **settings):
        scores.append(score.clone())
        return project(support, score, *args, **settings)

    monkeypatch.setattr(Plain, "project", noting)
    bare = get_method("alps", refit=False).prune(drawn := problem(Plain("2:4"), 16, 16, dtype=torch.float64))
    assert torch.equal(scores[-1], scores[-2])
    scaled = bare.weight * goal_of(drawn).scale()
    torch.testing.assert_close(scores[-1][bare.mask], scaled[bare.mask].square())


def test_its_weights_are_nearly_the_best_on_their_support():
    drawn = problem(Transposable("2:4"), 64, 64, samples=1000)
    bare, fitted = (get_method("alps", refit=refit).prune(drawn) for refit in (False, EXACT))
    assert fitted.error <= bare.error < 1.02 * fitted.error


def test_it_stops_when_the_support_stands_still(monkeypatch):
    calls = []
    project = Plain.project
    monkeypatch.setattr(Plain, "project", lambda *args, **kw: calls.append(1) or project(*args, **kw))
    drawn = problem(Plain("2:4"), 32, 32)
    found = get_method("alps").prune(drawn)
    assert 10 < len(calls) < 300
    settled = len(calls)
    calls.clear()
    assert torch.equal(get_method("alps", steps=1000).prune(drawn).mask, found.mask)
    assert len(calls) == settled
    calls.clear()
    get_method("alps", steps=7).prune(drawn)
    assert len(calls) == 7 + 2  # the first mask, and the proof of the last


@pytest.mark.parametrize(
    "wrong",
    [
        {"penalty": 0.0},
        {"every": 0},
        {"patience": 0},
        {"steps": 0},
        {"growth": (1.3, 1.2, 1.0)},
        {"changes": (0.1, -1.0)},
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant(wrong):
    with pytest.raises(InvalidProblemError, match=next(iter(wrong))):
        get_method("alps", **wrong)

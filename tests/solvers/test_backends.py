"""What the library backends do beyond the contract: settings, limits, integer scaling, rounding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tmask
from tests.strategies import KINDS, blocks, make_blocks
from tmask.judging.certificate import objectives
from tmask.judging.duals import is_regular
from tmask_solvers.patterns import regular_masks
from tmask_solvers.random_best import random_masks
from tmask_solvers.shared.constants import GRID_BITS
from tmask_solvers.shared.integer import integer_scores
from tmask_solvers.shared.rounding import round_to_regular


@pytest.mark.parametrize(
    ("name", "setting", "says"),
    [
        ("ortools-flow", {"blocks_per_graph": 0}, "at least 1"),
        ("ortools-cpsat", {"time_limit": 0}, "above 0"),
        ("ortools-cpsat", {"workers": 0}, "at least 1"),
        ("ortools-pdlp", {"tolerance": 0}, "between 0 and 1"),
        ("ortools-pdlp", {"blocks_per_model": 0}, "at least 1"),
        ("pulp-cbc", {"time_limit": -1}, "above 0"),
        ("pulp-cbc", {"blocks_per_model": 0}, "at least 1"),
        ("pulp-highs", {"backend": "nope"}, "PuLP knows no solver 'nope'"),
        ("ortools-flow", {"blocks_per_graph": 2.5}, "an integer"),
        ("ortools-cpsat", {"time_limit": "1"}, "above 0"),
        ("ortools-cpsat", {"time_limit": float("nan")}, "above 0"),
        ("ortools-cpsat", {"workers": True}, "an integer"),
        ("random-best", {"samples": 0}, "at least 1"),
        ("random-best", {"seed": -1}, "at least 0"),
        ("entropic", {"dtype": "float16"}, "'float32', 'float64' or None"),
        ("entropic", {"device": "meta"}, "cannot be used here"),
        ("entropic", {"tau": 0}, "positive and finite"),
        ("entropic", {"iterations": 0}, "at least 1"),
        ("entropic", {"device": "nope"}, "no torch device"),
    ],
)
def test_settings_out_of_range_are_refused(name, setting, says):
    with pytest.raises(tmask.InvalidProblemError, match=says):
        tmask.get_solver(name, **setting)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_integer_scores_are_exact_within_the_stated_range(kind):
    scores = make_blocks(kind, 50, 8)
    integers = integer_scores(scores)
    largest = scores.max((1, 2)).astype(np.float64)
    unit = np.exp2(np.frexp(largest)[1] - float(GRID_BITS))[:, None, None]
    error = np.abs(integers * unit - scores)
    assert (integers <= 2**GRID_BITS).all()
    assert (error <= unit / 2).all()
    near = scores >= largest[:, None, None] * 2.0**-22
    assert (error[near] == 0).all()


@pytest.mark.parametrize(("side", "per_graph"), [(4, 1), (4, 7), (4, 500), (8, 64), (16, 16), (64, 2000)])
def test_blocks_in_one_graph_do_not_disturb_one_another(side, per_graph):
    scores = make_blocks("normal", 12, side)
    alone = tmask.get_solver("ortools-flow", blocks_per_graph=1).solve(scores, side // 2).masks
    together = tmask.get_solver("ortools-flow", blocks_per_graph=per_graph).solve(scores, side // 2).masks
    np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize("name", ["pulp-cbc", "pulp-highs"])
def test_blocks_in_one_model_do_not_disturb_one_another(name):
    scores = make_blocks("normal", 5, 4)
    one = tmask.get_solver(name, blocks_per_model=1).solve(scores, 2).masks
    np.testing.assert_array_equal(one, tmask.get_solver(name, blocks_per_model=5).solve(scores, 2).masks)


def test_cbc_is_found_without_a_path(monkeypatch):
    """As in an environment that is used but not activated."""
    monkeypatch.setenv("PATH", "")
    assert is_regular(tmask.get_solver("pulp-cbc").solve(make_blocks("normal", 2, 4), 2).masks, 2).all()


def test_another_pulp_solver_can_be_named():
    scores = make_blocks("normal", 2, 4)
    by_cbc = tmask.get_solver("pulp-highs", backend="COIN_CMD").solve(scores, 2).masks
    np.testing.assert_array_equal(by_cbc, tmask.get_solver("pulp-highs").solve(scores, 2).masks)


def test_a_pulp_solver_that_is_not_here_says_which_are():
    with pytest.raises(tmask.SolverUnavailableError, match=r"finds no XPRESS here; it finds .*HiGHS"):
        tmask.get_solver("pulp-highs", backend="XPRESS").solve(make_blocks("normal", 1, 4), 2)


def test_a_time_limit_of_cpsat_is_a_status():
    weight = make_blocks("normal", 1, 32)[0]
    solution = tmask.solve(weight, "16:32", "ortools-cpsat", time_limit=1e-4)
    assert solution.status is tmask.Status.LIMIT
    assert solution.optimality_gap > 0
    tmask.check_mask(solution.mask, "16:32")


def test_pdlp_stopped_early_is_repaired_and_says_so():
    weight = make_blocks("normal", 1, 32)[0]
    solution = tmask.solve(weight, "16:32", "ortools-pdlp", iteration_limit=1)
    assert solution.status is tmask.Status.LIMIT
    tmask.check_mask(solution.mask, "16:32")


def test_prices_of_pdlp_prove_most_blocks():
    scores = make_blocks("normal", 64, 8)
    answer = tmask.get_solver("ortools-pdlp").solve(scores, 4)
    judged = tmask.judging.certificate.judge(scores, answer.masks, 4, prices=answer.prices)
    assert judged.proven.mean() > 0.9


@given(blocks(sides=(2, 3, 5, 8, 12)), st.booleans())
def test_rounding_always_fills_every_line(problem, integral):
    scores, n = problem
    if integral:  # what a linear program returns: a mask already
        scores = tmask.get_solver("networkx-simplex").solve(scores, n).masks.astype(np.float64)
    masks = round_to_regular(scores, n)
    assert is_regular(masks, n).all()
    if integral:
        np.testing.assert_array_equal(masks, scores == 1)


@given(st.integers(1, 32), st.data())
@settings(max_examples=20)
def test_random_masks_are_regular_and_differ(side, data):
    n = data.draw(st.integers(1, side))
    masks = random_masks(n, side, 1)
    assert is_regular(masks, n).all()
    if side > 4 and n < side:
        assert not (masks == random_masks(n, side, 2)).all()
        assert not (masks == random_masks(n, side, 1, group=1)).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_mask_of_side_4_is_drawn(n):
    """Shuffled circulants alone miss the 18 masks of 2:4 that fall into two 2-by-2 squares."""
    drawn = {mask.tobytes() for group in range(5) for mask in random_masks(n, 4, 0, group)}
    assert drawn == {mask.tobytes() for mask in regular_masks(n, 4)}


def test_more_samples_are_no_worse():
    scores = make_blocks("normal", 30, 8)
    masks = (tmask.get_solver("random-best", samples=k).solve(scores, 4).masks for k in (10, 1000, 2500))
    kept = [objectives(scores, mask) for mask in masks]
    assert (kept[0] <= kept[1]).all()
    assert (kept[1] <= kept[2]).all()
    assert kept[0].sum() < kept[1].sum() < kept[2].sum()


def test_entropic_comes_close():
    scores = make_blocks("normal", 50, 8)
    masks = tmask.get_solver("entropic").solve(scores, 4).masks
    assert is_regular(masks, 4).all()
    best = tmask.get_solver("augmenting-paths").solve(scores, 4).masks
    assert objectives(scores, masks).sum() > 0.999 * objectives(scores, best).sum()
    blunt = tmask.get_solver("entropic", tau=0.01, iterations=1).solve(scores, 4).masks
    assert is_regular(blunt, 4).all()


def test_nothing_is_printed(capfd):
    scores = make_blocks("normal", 3, 4)
    for name in tmask.available_solvers():
        tmask.get_solver(name).solve(scores, 2)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""

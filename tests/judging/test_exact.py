"""The judge in whole numbers: against brute force, against flows where these hold the scores, and beyond them."""

from fractions import Fraction

import numpy as np
import pytest

import tmask
from tests.grid import grid_objectives, on_grid
from tests.solvers.test_adversarial import ADVERSARIES
from tests.strategies import KINDS, make_blocks
from tests.test_contract import all_regular
from tmask.judging.exact import judge_exactly, optimum, whole_scores

WIDE = {
    "powers of two, wide": lambda rng, shape: 2.0 ** -rng.integers(0, 120, shape),
    "all of float64": lambda rng, shape: 2.0 ** rng.integers(-1074, 1000, shape),
    "last bits decide": lambda rng, shape: 1 + 2.0**-52 * rng.integers(0, 3, shape),
    "ties of far sizes": lambda rng, shape: rng.choice([0, 1, 2.0**-60, 2.0**-61], shape),
}  # fmt: skip


def wide_blocks(kind, count, side):
    return np.float64(WIDE[kind](np.random.default_rng(side), (count, side, side)))


def sums(block, masks):
    """Exact sums of a block over masks (P, m, m)."""
    whole, unit = whole_scores(block)
    return [int(total) * unit for total in (masks * np.array(whole, object)).sum((1, 2))]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", sorted(WIDE))
def test_it_agrees_with_brute_force(kind, n):
    masks = all_regular(n, 4)
    for block in wide_blocks(kind, 6, 4):
        worth = sums(block, masks)
        judged = judge_exactly(np.repeat(block[None], len(masks), 0), masks, n)
        np.testing.assert_array_equal(judged.proven, [x == max(worth) for x in worth])
        assert all(Fraction(bound) >= max(worth) for bound in judged.bound[~judged.proven])
        np.testing.assert_array_equal(judged.objective, [float(x) for x in worth])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_it_agrees_with_flows_that_hold_the_scores(kind):
    scores = make_blocks(kind, 6, 8)
    masks = tmask.get_solver("ortools-flow").solve(scores, 3).masks
    judged = judge_exactly(scores, masks, 3)
    assert judged.proven[on_grid(scores)].all()
    worse = np.roll(masks, 1, 1)
    less = grid_objectives(scores, worse) < grid_objectives(scores, masks)
    assert not (judge_exactly(scores, worse, 3).proven & less)[on_grid(scores)].any()


@pytest.mark.parametrize("kind", sorted(ADVERSARIES))
@pytest.mark.parametrize(("n", "m"), [(4, 8), (16, 32)])
def test_hostile_blocks_are_optimal_within_what_the_solver_states(n, m, kind):
    scores = np.float32(ADVERSARIES[kind](np.random.default_rng(m), (3, m, m), n))
    masks = tmask.get_solver("midpoint").solve(scores, n).masks
    judged = judge_exactly(scores, masks, n)
    assert judged.proven[on_grid(scores)].all()
    for block, mask in zip(scores, masks, strict=True):
        whole, unit = whole_scores(block)
        kept = sum(x for row, on in zip(whole, mask, strict=True) for x, k in zip(row, on, strict=True) if k)
        slack = n * m * Fraction(2) ** -45 * Fraction(float(block.max()))
        assert (optimum(whole, n) - kept) * unit <= slack


def test_certify_decides_what_prices_in_float64_leave_open():
    """Scores so far apart that no sum in float64 holds two of them: the best mask stays unproven without `exact`."""
    block = np.array([[2.0**900, 1], [1, 2.0**-900]])
    best, other = np.eye(2, dtype=bool), ~np.eye(2, dtype=bool)
    certificate = tmask.certify(block, best, "1:2", exact=True)
    assert certificate.optimal
    assert certificate.optimality_gap == 0
    assert not tmask.certify(block, other, "1:2", exact=True).optimal
    tie = np.array([[1.0, 2.0**-60], [1.0, 2.0**-60]])
    assert tmask.certify(tie, best, "1:2", exact=True).optimal
    assert tmask.certify(tie, other, "1:2", exact=True).optimal
    by_a_hair = np.array([[1.0, 2.0**-60], [1.0, 2.0**-61]])
    assert not tmask.certify(by_a_hair, best, "1:2", exact=True).optimal
    assert tmask.certify(by_a_hair, other, "1:2", exact=True).optimal


def test_tiles_cut_short_are_judged_too():
    weight = make_blocks("normal", 1, 12)[0][:11, :10]
    mask = tmask.solve(weight, "2:4").mask
    certificate = tmask.certify(weight, mask, "2:4", exact=True)
    assert certificate.optimal
    broken = mask.copy()
    broken[0] = True
    assert not tmask.certify(weight, broken, "2:4", exact=True).feasible

"""Its prices prove every block, whatever the block is like, and threads change nothing."""

import numpy as np
import pytest
from hypothesis import given

import tmask
from tests.strategies import KINDS, blocks, make_blocks
from tmask.judging.duals import is_regular, proves_optimal


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"wide range", "one huge"}))
@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 3), (2, 4), (3, 5), (5, 7), (4, 8), (7, 16), (20, 32), (31, 64)])
def test_prices_prove_every_block(kind, n, m):
    scores = make_blocks(kind, 20, m, seed=n)
    answer = tmask.get_solver("augmenting-paths").solve(scores, n)
    assert is_regular(answer.masks, n).all()
    assert proves_optimal(scores, answer.masks, answer.prices).all()


@given(blocks(sides=(2, 3, 4, 5, 6, 7, 8, 12, 16, 32)))
def test_gaps_are_zero_or_within_the_grid(problem):
    scores, n = problem
    answer = tmask.get_solver("augmenting-paths").solve(scores, n)
    gap = tmask.judging.certificate.judge(scores, answer.masks, n, prices=answer.prices)
    largest = 2.0 ** np.frexp(scores.max((1, 2)).astype(float))[1]
    assert (gap.bound - gap.objective <= 2 * n * scores.shape[1] * 2.0**-46 * largest).all()


def test_scores_near_the_largest_float32():
    scores = make_blocks("normal", 10, 8) * np.float32(8e37)
    answer = tmask.get_solver("augmenting-paths").solve(scores, 4)
    assert proves_optimal(scores, answer.masks, answer.prices).all()


def test_scores_of_float64_at_both_ends():
    for scale in (2.0**1000, 2.0**-1000, 2.0**-1070):
        scores = np.round(make_blocks("normal", 10, 8).astype(np.float64) * 8) * scale
        answer = tmask.get_solver("augmenting-paths").solve(scores, 4)
        assert is_regular(answer.masks, 4).all()
        assert proves_optimal(scores, answer.masks, answer.prices).all()


@pytest.mark.parametrize("threads", [2, 3, 50])
def test_threads_change_nothing(threads):
    scores = make_blocks("ties", 40, 8)
    one = tmask.get_solver("augmenting-paths").solve(scores, 4)
    many = tmask.get_solver("augmenting-paths", threads=threads).solve(scores, 4)
    np.testing.assert_array_equal(one.masks, many.masks)
    np.testing.assert_array_equal(one.prices, many.prices)


def test_threads_must_be_positive():
    with pytest.raises(tmask.InvalidProblemError, match="threads must be at least 1"):
        tmask.get_solver("augmenting-paths", threads=0)

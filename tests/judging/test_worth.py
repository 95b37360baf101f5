"""Worth: shares, gaps and sums."""

import pytest

from tmask.judging.worth import Worth


def test_a_share_of_nothing_is_all_of_it_and_a_bound_of_nothing_leaves_no_gap():
    nothing = Worth(0.0, 0.0, 0.0)
    assert (nothing.retained, nothing.optimality_gap) == (1.0, 0.0)


def test_shares_and_gaps():
    worth = Worth(objective=6.0, total=10.0, dual_bound=8.0)
    assert (worth.retained, worth.optimality_gap) == (0.6, 0.25)
    assert Worth(6.0, 10.0, None).optimality_gap is None


def test_a_sum_has_a_bound_only_if_each_part_has_one():
    parts = [Worth(1.0, 2.0, 1.0), Worth(3.0, 4.0, 3.5)]
    assert Worth.sum(parts) == Worth(4.0, 6.0, 4.5)
    assert Worth.sum([*parts, Worth(1.0, 1.0, None)]) == Worth(5.0, 7.0, None)


def test_the_sum_of_no_parts_is_worth_nothing():
    assert Worth.sum([]) == Worth(0.0, 0.0, 0.0)


@pytest.mark.parametrize("field", ["objective", "total", "dual_bound"])
def test_a_worth_does_not_change(field):
    with pytest.raises(AttributeError):
        setattr(Worth(1.0, 1.0, 1.0), field, 2.0)

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tmask
from tmask.blocks.pattern import Pattern
from tmask.nn import Frozen, Periodic


@st.composite
def periodic(draw):
    every, begin, ramp = draw(st.integers(1, 9)), draw(st.integers(0, 20)), draw(st.integers(0, 40))
    arrival = begin + math.ceil(ramp / every) * every
    end = draw(st.none() | st.integers(arrival, arrival + 30))
    after = arrival if end is None else end
    return Periodic(every, begin, end, ramp, draw(st.none() | st.integers(after + 1, after + 30)))


patterns = st.integers(1, 16).flatmap(lambda m: st.builds(Pattern, st.integers(1, m), st.just(m)))


def test_frozen_finds_masks_once():
    assert [step for step in range(100) if Frozen().renews_at(step)] == [0]
    assert Frozen().pattern_at(50, Pattern(2, 4)) == Pattern(2, 4)


def test_periodic_by_example():
    schedule = Periodic(every=4, begin=2, end=11, dense_from=20)
    assert [step for step in range(40) if schedule.renews_at(step)] == [2, 6, 10, 20]
    assert [step for step in range(40) if schedule.pattern_at(step, Pattern(2, 4)) is None] == [0, 1, *range(20, 40)]


def test_the_ramp_follows_the_cubic():
    schedule = Periodic(every=10, begin=5, ramp=40)
    steps = [5, 15, 25, 35, 45]
    zeros = [0, 8 * (1 - 0.75**3), 8 * (1 - 0.5**3), 8 * (1 - 0.25**3), 8]  # of 16, at 8:16
    assert [schedule.pattern_at(step, Pattern(8, 16)).n for step in steps] == [16 - math.floor(z) for z in zeros]


@given(periodic(), patterns)
def test_the_pattern_changes_at_renewals_only(schedule, target):
    for step in range(1, 150):
        if schedule.pattern_at(step, target) != schedule.pattern_at(step - 1, target):
            assert schedule.renews_at(step)


@given(periodic(), patterns)
def test_density_falls_to_the_target_and_stays(schedule, target):
    tail = schedule.dense_from or 150
    kept = [target.m if (p := schedule.pattern_at(step, target)) is None else p.n for step in range(tail)]
    assert all(p is None or p.m == target.m for p in (schedule.pattern_at(step, target) for step in range(150)))
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] == target.n
    if schedule.dense_from is not None:
        assert schedule.pattern_at(schedule.dense_from, target) is None
        assert schedule.renews_at(schedule.dense_from)
        assert not any(schedule.renews_at(step) for step in range(schedule.dense_from + 1, 200))


@given(periodic())
def test_renewals_keep_to_their_span(schedule):
    for step in range(150):
        if schedule.renews_at(step) and step != schedule.dense_from:
            assert schedule.begin <= step
            assert (step - schedule.begin) % schedule.every == 0
            assert schedule.end is None or step <= schedule.end


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"every": 0}, "every must be an integer of at least 1, got 0"),
        ({"every": 2.5}, "every must be an integer"),
        ({"every": True}, "every must be an integer"),
        ({"begin": -1}, "begin must be"),
        ({"begin": None}, "begin must be"),
        ({"ramp": -5}, "ramp must be"),
        ({"dense_from": 0}, "dense_from must be"),
        ({"begin": 50, "end": 40}, "end=40 comes before step 50"),
        ({"every": 40, "ramp": 50, "end": 60}, "end=60 comes before step 80"),
        ({"every": 40, "ramp": 50, "dense_from": 80}, "dense_from=80 must come after step 80"),
        ({"end": 100, "dense_from": 100}, "end=100 must come before dense_from=100"),
        ({"gradient": "dense"}, "gradient must be one of straight-through, masked; got 'dense'"),
    ],
)
def test_settings_are_checked(settings, says):
    with pytest.raises(tmask.InvalidProblemError, match=says):
        Periodic(**settings)

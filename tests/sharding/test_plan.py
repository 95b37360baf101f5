"""The split: every layer once, the same for all, balanced; and places from launchers' variables."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmask.errors import InvalidProblemError
from tmask.sharding.place import Place, parse_place, place_from
from tmask.sharding.plan import split

SHAPES = st.dictionaries(st.text(max_size=3), st.tuples(st.integers(1, 99), st.integers(1, 99)), min_size=1)


@given(SHAPES, st.integers(1, 6), st.randoms())
def test_every_layer_once_whatever_the_order(shapes, count, random):
    count = min(count, len(shapes))
    shards = split(shapes, count)
    assert sorted(name for shard in shards for name in shard) == sorted(shapes)
    assert all(shards)
    items = [*shapes.items()]
    random.shuffle(items)
    assert split(dict(items), count) == shards
    sizes = [math.prod(shape) for shape in shapes.values()]
    share = [sum(math.prod(shapes[name]) for name in shard) for shard in shards]
    assert max(share) <= sum(sizes) / count + max(sizes)


def array(index, count, first, last):
    names = ("ID", "COUNT", "MIN", "MAX")
    return {f"SLURM_ARRAY_TASK_{n}": str(v) for n, v in zip(names, (index, count, first, last), strict=True)}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, None),
        (array(3, 4, 0, 3), Place(4, 4)),
        (array(3, 4, 1, 4), Place(3, 4)),
        ({"RANK": "0", "WORLD_SIZE": "2"}, Place(1, 2)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMI_RANK": "1", "PMI_SIZE": "2"}, Place(2, 2)),
    ],
)
def test_places_of_launchers(environment, place):
    assert place_from(environment) == place


@pytest.mark.parametrize(
    "environment",
    [
        array(3, 1, 3, 3),  # one task run again
        array(3, 2, 3, 7),
        array(3, 2, 3, 4),
        {"RANK": "0", "WORLD_SIZE": "x"},
        {"RANK": "5", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "2", "PMI_RANK": "1", "PMI_SIZE": "2"},
    ],
)
def test_what_does_not_tell_the_shards_is_refused(environment):
    with pytest.raises(InvalidProblemError):
        place_from(environment)


@pytest.mark.parametrize("text", ["0/2", "3/2", "a/2", "1", "1/0", "-1/2"])
def test_texts_that_are_no_place(text):
    with pytest.raises(InvalidProblemError):
        parse_place(text)

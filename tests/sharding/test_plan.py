"""The split: every layer once, the same for all, balanced; and places from launchers' variables."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmask.errors import InvalidProblemError
from tmask.files.bands import num_lines, unit_lines
from tmask.files.layers import Layer
from tmask.sharding.place import Place, parse_place, place_from
from tmask.sharding.plan import split

SIDE = st.integers(1, 40)
KINDS = {
    "matrix": st.tuples(SIDE, SIDE),
    "stack": st.tuples(st.integers(1, 4), SIDE, SIDE),
    "convolution": st.tuples(SIDE, SIDE, st.just(3), st.just(3)),
}


@st.composite
def layers(draw):
    found = []
    for name in draw(st.sets(st.text(max_size=3), min_size=1, max_size=6)):
        layout = draw(st.sampled_from(sorted(KINDS)))
        shape = draw(KINDS[layout])
        groups = draw(st.sampled_from([1, 2, 3])) if layout == "convolution" else 1
        if layout == "convolution":
            shape = (shape[0] * groups, *shape[1:])
        found.append(Layer(name, shape, "float32", groups, layout))
    return found


def rows_of_tiles(layer, m):
    unit = unit_lines(layer.shape, layer.groups, layer.layout)
    return num_lines(layer.shape, layer.layout) // unit * math.ceil(unit / m)


@given(layers(), st.integers(1, 12), st.sampled_from([2, 4, 8]), st.randoms())
def test_every_line_once_whatever_the_order(given_layers, count, m, random):
    count = min(count, sum(rows_of_tiles(layer, m) for layer in given_layers))
    shards = split(given_layers, count, m)
    assert all(shards)
    lines = {layer.name: [] for layer in given_layers}
    for piece in (piece for shard in shards for piece in shard):
        if piece.band is None:
            lines[piece.name].append((0, num_lines(piece.shape, piece.layout)))
        else:
            lines[piece.band.of].append((piece.band.first, piece.band.last))
    for layer in given_layers:
        edges = sorted(lines[layer.name])
        assert edges[0][0] == 0
        assert edges[-1][1] == num_lines(layer.shape, layer.layout)
        assert [last for _, last in edges[:-1]] == [first for first, _ in edges[1:]]
        assert all(first % unit_lines(layer.shape, layer.groups, layer.layout) % m == 0 for first, _ in edges)
    shuffled = given_layers[:]
    random.shuffle(shuffled)
    names = [sorted(piece.name for piece in shard) for shard in shards]
    assert [sorted(piece.name for piece in shard) for shard in split(shuffled, count, m)] == names


@given(layers(), st.integers(1, 12), st.sampled_from([2, 4, 8]))
def test_no_shard_has_more_than_a_share_and_a_piece(given_layers, count, m):
    count = min(count, sum(rows_of_tiles(layer, m) for layer in given_layers))
    shards = split(given_layers, count, m)
    share = sum(math.prod(layer.shape) for layer in given_layers) / count
    pieces = [math.prod(piece.shape) for shard in shards for piece in shard]
    assert max(sum(math.prod(piece.shape) for piece in shard) for shard in shards) <= share + max(pieces)
    # Nothing is cut without need, and nothing left whole that could be cut to fit a share.
    thickest = max(math.prod(layer.shape) // num_lines(layer.shape, layer.layout) * m for layer in given_layers)
    assert max(pieces) <= max(2 * share, thickest)
    if len(given_layers) >= count:
        for shard in shards:
            for piece in shard:
                whole = piece.shape if piece.band is None else piece.band.whole
                assert (piece.band is None) == (math.prod(whole) <= share) or math.prod(whole) <= thickest


def test_bands_are_of_nearly_one_size():
    shards = split([Layer("w", (100, 7), "float32")], 3, 4)
    assert sorted((p.band.first, p.band.last, p.shape) for (p,) in shards) == [
        (0, 32, (32, 7)), (32, 64, (32, 7)), (64, 100, (36, 7)),
    ]  # fmt: skip


def test_units_stay_whole_where_these_suffice():
    experts = Layer("w", (2, 3, 16, 8), "float32", 1, "stack")
    assert {p.shape for share in split([experts], 3, 4) for p in share} == {(2, 16, 8)}
    assert {p.shape for share in split([experts], 12, 4) for p in share} == {(8, 8)}
    grouped = Layer("w", (32, 3, 3, 3), "float32", 4, "convolution")
    assert {(p.shape, p.groups) for share in split([grouped], 2, 4) for p in share} == {((16, 3, 3, 3), 2)}
    assert {(p.shape, p.groups) for share in split([grouped], 8, 4) for p in share} == {((4, 3, 3, 3), 1)}


def test_more_shards_than_rows_of_tiles_are_refused():
    with pytest.raises(InvalidProblemError, match="5 shards for 4 rows of tiles"):
        split([Layer("a", (9, 4), "float32"), Layer("b", (4, 4), "float32")], 5, 4)


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

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tmask
from tests.test_contract import all_regular
from tmask.blocks.pattern import Pattern
from tmask.blocks.tiling import Tiling
from tmask.errors import InvalidProblemError


@st.composite
def tilings(draw):
    m = draw(st.integers(1, 9))
    groups = draw(st.integers(1, 3))
    kernel = draw(st.sampled_from([(), (3,), (3, 2), (2, 1, 2)]))
    shape = (groups * draw(st.integers(1, 20)), draw(st.integers(1, 20)), *kernel)
    return Tiling(shape, Pattern(draw(st.integers(1, m)), m), groups, "convolution")


@given(tilings())
def test_split_and_join_round_trip(tiling):
    weight = np.arange(1, np.prod(tiling.shape) + 1).reshape(tiling.shape)
    blocks = tiling.split(weight)
    np.testing.assert_array_equal(tiling.join(blocks), weight)
    assert sum((part > 0).sum() for part in blocks) == weight.size  # the rest is padding, and zero
    assert all(part.min() >= 0 for part in blocks)


@given(tilings())
def test_a_block_holds_outputs_by_inputs_of_one_kernel_position_and_group(tiling):
    index = np.stack(np.indices(tiling.shape), -1)
    per_group = tiling.shape[0] // tiling.groups
    flat = np.arange(index[..., 0].size).reshape(tiling.shape)
    for region, part in zip(tiling.regions(), tiling.split(flat), strict=True):
        for block in part[:, : region.height, : region.width]:
            places = index.reshape(-1, index.shape[-1])[block.ravel()].reshape(*block.shape, -1)
            assert len({tuple(place) for place in places[..., 2:].reshape(block.size, -1)}) == 1
            assert len(set(places[..., 0].ravel() // per_group)) == 1
            assert (places[..., 0] == places[:, :1, 0]).all()  # a row is one output
            assert (places[..., 1] == places[:1, :, 1]).all()  # a column is one input


def test_a_convolution_is_not_tiled_along_its_flattened_filters():
    weight = np.zeros((4, 4, 3, 3), np.float32)
    weight[0] = 1
    mask = tmask.solve(weight, "1:4", solver="networkx-simplex").mask
    assert (mask.sum(0) == 1).all()
    assert (mask.sum(1) == 1).all()


@given(tilings(), st.integers(0, 2**32 - 1))
def test_every_mask_of_a_ragged_tile_completes(tiling, seed):
    n = tiling.pattern.n
    rng = np.random.default_rng(seed)
    for region in tiling.regions():
        if region.full:
            continue
        masks = np.zeros((3, region.side, region.side), bool)
        tile = masks[:, : region.height, : region.width]
        for i, j in rng.permutation(np.argwhere(~tile[0])):
            free = (tile[:, i].sum(1) < n) & (tile[:, :, j].sum(1) < n)
            tile[:, i, j] = free & (rng.random(3) < 0.7)
        completed = region.complete(masks, n)
        assert (completed.sum(1) == n).all()
        assert (completed.sum(2) == n).all()
        np.testing.assert_array_equal(completed[:, : region.height, : region.width], tile)


@pytest.mark.parametrize(
    ("shape", "groups", "says"),
    [((4,), 1, "at least two axes"), ((), 1, "at least two axes"), ((0, 4), 1, "empty"), ((4, 4), 3, "do not divide")],
)
def test_shapes_that_cannot_be_tiled(shape, groups, says):
    with pytest.raises(InvalidProblemError, match=says):
        Tiling(shape, Pattern(2, 4), groups)


def at_most(n, height, width):
    """Every mask with at most n per line, by trying all."""
    masks = np.array(list(itertools.product([False, True], repeat=height * width))).reshape(-1, height, width)
    return masks[(masks.sum(1) <= n).all(1) & (masks.sum(2) <= n).all(1)]


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.data(), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=60)
def test_a_ragged_tile_keeps_the_best_at_most_n_per_line(height, width, m, data, seed, zeros):
    """The padding takes no weight's place: the tile's optimum is the one over all masks with at most n per line."""
    if max(height, width) > m:
        height = width = 1
    n = data.draw(st.integers(1, m))
    rng = np.random.default_rng(seed)
    weight = rng.integers(0 if zeros else 1, 5, (height, width)).astype(np.float32)
    full = height == width == m
    masks = all_regular(n, m) if full else at_most(n, height, width)
    best = np.where(masks, weight, 0).sum((1, 2)).max()
    assert tmask.solve(weight, Pattern(n, m), solver="networkx-simplex").objective == best


def test_padding_to_m_alone_would_cost_a_weight():
    """2:4 on 3 x 3: six ones can be kept; a 4-by-4 block keeps five, since a padded line takes one's place."""
    weight = 1 - np.eye(3, dtype=np.float32)
    solution = tmask.solve(weight, "2:4", solver="networkx-simplex")
    assert solution.objective == 6
    assert solution.optimality_gap == 0
    assert tmask.solve(np.pad(weight, (0, 1)), "2:4", solver="networkx-simplex").objective == 5


def test_a_solver_of_small_blocks_leaves_ragged_tiles_to_another():
    solution = tmask.solve(np.ones((6, 6), np.float32), "2:4", solver="patterns")
    assert solution.solver.startswith("patterns+")
    assert solution.optimality_gap == 0
    assert solution.objective == 8 + 2 * 4 + 4

"""Blocks of many weights: all of them, or a random part."""

from functools import partial

import numpy as np
import pytest

from tmask.blocks.pattern import Pattern
from tmask.blocks.tiling import Tiling
from tmask.comparison import gathering
from tmask.comparison.gathering import ComparedWeight, gather_blocks, shuffled_order

PATTERN = Pattern(2, 4)
SHAPES = [((8, 12), 1, None), (3, 6), ((2, 8, 8), 1, "stack"), ((10, 9), 1, None), ((8, 4, 3, 3), 2, "convolution")]


@pytest.fixture
def weights():
    """Scores that are all different, so that each block is known by its numbers."""
    shapes = [given if isinstance(given[0], tuple) else (given, 1, None) for given in SHAPES]
    start, made = 0, []
    for shape, groups, layout in shapes:
        size = int(np.prod(shape))
        made.append((np.arange(start, start + size, dtype=np.float32).reshape(shape), groups, layout))
        start += size
    return made


def parts_of(weights, calls):
    def load(k):
        calls.append(k)
        return weights[k][0]

    return [ComparedWeight(w.shape, groups, layout, partial(load, k)) for k, (w, groups, layout) in enumerate(weights)]


def full_blocks(weights):
    found = []
    for scores, groups, layout in weights:
        tiling = Tiling(scores.shape, PATTERN, groups, layout)
        regions = zip(tiling.regions(), tiling.split(scores), strict=True)
        found += [block for region, blocks in regions if region.full for block in blocks]
    return found


def test_all_of_few(weights):
    calls = []
    blocks, remarks = gather_blocks(parts_of(weights, calls), PATTERN)
    np.testing.assert_array_equal(blocks, full_blocks(weights))
    assert calls == [0, 1, 2, 3, 4]
    cut_short = sum(Tiling(w.shape, PATTERN, g, layout).num_blocks for w, g, layout in weights) - len(blocks)
    assert remarks == [f"2:4: {cut_short} tiles that are cut short at an edge were left out"]


def test_a_random_part_of_many(weights, monkeypatch):
    every = [block.tobytes() for block in full_blocks(weights)]
    monkeypatch.setattr(gathering, "_MOST_ENTRIES", 10 * 16)
    times = dict.fromkeys(every, 0)
    for seed in range(200):
        blocks, remarks = gather_blocks(parts_of(weights, []), PATTERN, seed)
        taken = [block.tobytes() for block in blocks]
        assert len(taken) == len({*taken}) == 10
        assert remarks[0] == f"2:4: of {len(every)} full blocks, 10 were taken at random"
        for block in taken:
            times[block] += 1
    # Each has the same chance, 10 in len(every), in 200 draws: five standard deviations.
    chance = 10 / len(every)
    assert np.ptp([*times.values()]) < 10 * np.sqrt(200 * chance * (1 - chance))
    assert min(times.values()) > 0


def test_blocks_come_in_the_order_of_a_comparison(weights):
    blocks, _ = gather_blocks(parts_of(weights, []), PATTERN)
    shuffled, _ = gather_blocks(parts_of(weights, []), PATTERN, seed=3, shuffled=True)
    np.testing.assert_array_equal(shuffled, blocks[shuffled_order(len(blocks), 3)])


def test_no_full_block(weights):
    blocks, remarks = gather_blocks(parts_of([weights[1]], []), PATTERN)
    assert blocks.shape == (0, 4, 4)
    assert len(remarks) == 1

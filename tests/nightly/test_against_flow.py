"""Every pattern and distribution against min-cost flow on the same integers."""

import time

import numpy as np
import pytest

import tmask
from bench.cases import CASES
from tests.grid import assert_same_objectives, on_grid
from tests.strategies import KINDS, make_blocks
from tmask.blocks.pattern import Pattern
from tmask.judging.duals import is_regular, proves_optimal

pytestmark = pytest.mark.nightly

BLOCKS = 2500
PATTERNS = ("1:4", "2:4", "3:4", "2:8", "4:8", "4:16", "8:16", "16:32")
SOURCES = {f"kind {kind}": None for kind in sorted(KINDS)} | {f"case {case.name}": case for case in CASES}


def draw(source: str, pattern: Pattern) -> np.ndarray:
    """(B, m, m) scores: `BLOCKS` of them, or all there are of real weights."""
    case = SOURCES[source]
    if case is None:
        return make_blocks(source.removeprefix("kind "), BLOCKS, pattern.m, seed=pattern.n)
    return case.blocks(pattern, BLOCKS)


@pytest.mark.parametrize("source", sorted(SOURCES))
@pytest.mark.parametrize("text", PATTERNS)
def test_objectives_are_those_of_min_cost_flow(text, source, record_property):
    pattern = Pattern.parse(text)
    scores = draw(source, pattern)
    expected = BLOCKS if source != "case digits" else 1
    assert len(scores) >= expected
    begin = time.perf_counter()
    flow = tmask.get_solver("ortools-flow").solve(scores, pattern.n).masks
    seconds = time.perf_counter() - begin
    answer = tmask.get_solver("midpoint").solve(scores, pattern.n)
    # The blocks side by side, as one matrix: the closed forms at m = 4.
    matrix = np.ascontiguousarray(scores.transpose(1, 0, 2)).reshape(pattern.m, -1)
    mask = tmask.solve(matrix, text, "midpoint").mask
    in_place = mask.reshape(pattern.m, -1, pattern.m).transpose(1, 0, 2)
    exact = on_grid(scores)
    for masks in (answer.masks, in_place):
        assert is_regular(masks, pattern.n).all()
        assert_same_objectives(scores, masks, flow, pattern.n)
    assert proves_optimal(scores[exact], answer.masks[exact], answer.prices[exact]).all()
    print(f"{text}, {source}: {len(scores)} blocks compared, {int(exact.sum())} to the unit; flow took {seconds:.2f} s")
    record_property("blocks_compared", len(scores))

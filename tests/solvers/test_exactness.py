"""Near ties: what the exactness statements of the backends claim, to the last unit of the integer objective."""

import numpy as np
import pytest

import tmask
from tests.strategies import KINDS, make_blocks
from tmask_solvers import ortools_flow
from tmask_solvers.ortools_flow import OrtoolsFlow
from tmask_solvers.shared.constants import GRID_BITS
from tmask_solvers.shared.integer import integer_scores

FLOW = OrtoolsFlow(blocks_per_graph=1)


def units(scores: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(B,) objects: integer objectives, summed without rounding."""
    pairs = zip(integer_scores(scores), masks, strict=True)
    return np.array([sum(map(int, values[mask])) for values, mask in pairs], dtype=object)


def shortfall(name: str, scores: np.ndarray, n: int) -> np.ndarray:
    """(B,) units that a solver's masks fall short of the flow's."""
    masks = tmask.get_solver(name).solve(scores, n).masks
    return units(scores, FLOW.solve(scores, n).masks) - units(scores, masks)


@pytest.mark.parametrize("name", ["networkx-simplex", "ortools-flow", "ortools-cpsat", "augmenting-paths"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_integer_solvers_agree_to_the_last_unit(name, kind, dtype):
    scores = make_blocks(kind, 3, 5).astype(dtype)
    assert not shortfall(name, scores, 2).any()
    assert not shortfall(name, scores * np.asarray(1.1, dtype), 3).any()


def test_cpsat_tells_objectives_above_2_to_53_apart():
    """A gap test in float64 takes these masks, 1 to 3 units short, for optimal."""
    side, n = 64, 16
    scores = np.empty((3, side, side))
    for block, gain in zip(scores, (1, 2, 3), strict=True):
        block[:] = ((np.arange(side) - np.arange(side)[:, None]) % side < n) * (1 - 2.0**-20)
        block[0, n] = block[0, 0] + gain * 2.0**-GRID_BITS  # exchanging (0, 0), (n, n) for these two gains as much
        block[n, 0] = block[n, n]
    assert not shortfall("ortools-cpsat", scores, n).any()


@pytest.mark.parametrize("name", ["pulp-cbc", "pulp-highs"])
@pytest.mark.parametrize("ulp", [2.0**-45, 2.0**-40, 2.0**-30, 2.0**-23])
def test_milp_solvers_stay_within_their_bound(name, ulp):
    scores = 1 + np.random.default_rng(0).integers(0, 3, (4, 8, 8)) * ulp
    unit = 2.0 ** (1 - GRID_BITS)  # the largest score is just above 1, and below 2
    assert shortfall(name, scores, 4).max() * unit <= 4 * 8 * 2e-12


def test_patterns_are_exact_on_float32_within_the_stated_range():
    rng = np.random.default_rng(0)
    scores = (1 + rng.integers(0, 3, (200, 4, 4)) * 2.0**-23) * 2.0 ** -rng.integers(0, 22, (200, 4, 4))
    assert not shortfall("patterns", np.float32(scores), 2).any()


@pytest.mark.parametrize("bits", [ortools_flow._SCALED_BITS, 62])
def test_the_largest_flow_graph_is_exact(bits, monkeypatch):
    """At 62 bits, 512 blocks of side 64 fail with BAD_COST_RANGE: the graph is then halved until it passes."""
    monkeypatch.setattr(ortools_flow, "_SCALED_BITS", bits)
    scores = np.zeros((512, 64, 64), np.float32)
    scores[:, :16, :16] = make_blocks("normal", 512, 16)
    together = OrtoolsFlow(blocks_per_graph=10_000).solve(scores, 8).masks[:8]
    assert (units(scores[:8], together) == units(scores[:8], FLOW.solve(scores[:8], 8).masks)).all()

"""What every registered solver must do. A new solver is picked up from the registry by itself."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import tmask
from tests.strategies import KINDS, blocks, make_blocks
from tests.tolerances import tolerance
from tmask.judging.certificate import judge, objectives
from tmask.judging.duals import is_regular
from tmask.solving.registry import BUILTIN, get_solver, solver_class, solver_infos

MISSING = {info.name: info.missing for info in solver_infos()}
# Constructing a model in Python dominates the time of these, so they see smaller inputs.
SLOW = {"pulp-cbc", "pulp-highs", "ortools-cpsat", "ortools-pdlp", "networkx-simplex", "entropic", "random-best"}


def usable(name: str):
    missing = MISSING[name]
    return pytest.param(name, marks=pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}"))


SOLVERS = [usable(name) for name in BUILTIN]
EXACT = [usable(name) for name in BUILTIN if not MISSING[name] and solver_class(name).exact]
HEURISTIC = [usable(name) for name in BUILTIN if not MISSING[name] and not solver_class(name).exact]


def takes(name: str, side: int) -> bool:
    return solver_class(name).max_side >= side


@cache
def all_regular(n: int, m: int) -> np.ndarray:
    """(P, m, m): every n-regular mask, by trying every choice of rows."""
    rows = [np.isin(np.arange(m), kept) for kept in itertools.combinations(range(m), n)]
    masks = np.array([choice for choice in itertools.product(rows, repeat=m) if (np.sum(choice, 0) == n).all()])
    return masks


def brute_force(scores: np.ndarray, n: int) -> np.ndarray:
    """(B,) the optimum of each block."""
    masks = all_regular(n, scores.shape[1])
    return np.einsum("bij,pij->bp", scores.astype(np.float64), masks.astype(np.float64)).max(1)


def solve(name: str, scores: np.ndarray, n: int):
    return get_solver(name).solve(scores, n)


def close(name: str, a, b) -> None:
    np.testing.assert_allclose(a, b, rtol=tolerance(name), atol=0)


def test_the_brute_force_counts_are_the_known_ones():
    assert len(all_regular(2, 4)) == 90
    assert len(all_regular(1, 4)) == 24


@pytest.mark.parametrize("name", SOLVERS)
def test_table_and_class_agree(name):
    cls = solver_class(name)
    assert cls.name == name
    assert cls.requires == BUILTIN[name].requires
    assert cls.__doc__
    assert not cls.__doc__.startswith(f"{cls.__name__}(")  # the one that dataclass writes


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_masks_have_shape_dtype_and_at_most_n_per_line(name, dtype):
    scores = make_blocks("normal", 5, 4).astype(dtype)
    masks = solve(name, scores, 2).masks
    assert masks.shape == scores.shape
    assert masks.dtype == np.bool_
    assert masks.sum(1).max() <= 2
    assert masks.sum(2).max() <= 2
    assert masks.any()


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_exact_solvers_agree_with_brute_force(name, kind, n):
    scores = make_blocks(kind, 8 if name in SLOW else 40, 4, seed=n)
    answer = solve(name, scores, n)
    assert is_regular(answer.masks, n).all()
    close(name, objectives(scores, answer.masks), brute_force(scores, n))


LARGER = [(1, 8), (4, 8), (3, 6), (2, 5), (3, 7), (7, 12), (8, 16), (16, 32)]


@pytest.mark.parametrize(
    ("name", "n", "m"),
    [(*solver.values, n, m) for solver in EXACT for n, m in LARGER if takes(str(solver.values[0]), m)],
)
def test_exact_solvers_are_proven_optimal(name, n, m):
    for kind in sorted(KINDS):
        scores = make_blocks(kind, 1 if name in SLOW else 6, m, seed=m)
        masks = solve(name, scores, n).masks
        judgement = judge(scores, masks, n)
        assert judgement.regular.all()
        gap = judgement.bound - judgement.objective
        assert (gap <= 2 * tolerance(name) * judgement.bound).all(), kind


@pytest.mark.parametrize("name", EXACT)
@given(problem=blocks())
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
def test_exact_solvers_agree_with_one_another(name, problem):
    scores, n = problem
    if not takes(name, scores.shape[1]):
        return
    reference = solve("networkx-simplex", scores, n).masks
    close(name, objectives(scores, solve(name, scores, n).masks), objectives(scores, reference))


@pytest.mark.parametrize("name", SOLVERS)
@given(problem=blocks(sides=(2, 3, 4)))
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
def test_no_solver_beats_the_bound(name, problem):
    scores, n = problem
    answer = solve(name, scores, n)
    judgement = judge(scores, answer.masks, n, prices=answer.prices)
    feasible = judgement.regular
    assert (judgement.objective[feasible] <= judgement.bound[feasible]).all()
    assert (judgement.bound >= brute_force(scores, n) * (1 - 1e-15)).all()


@pytest.mark.parametrize("name", EXACT)
@given(problem=blocks(sides=(4,)))
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
def test_transposing_the_scores_transposes_the_objective(name, problem):
    scores, n = problem
    flipped = np.ascontiguousarray(scores.transpose(0, 2, 1))
    close(
        name,
        objectives(scores, solve(name, scores, n).masks),
        objectives(flipped, solve(name, flipped, n).masks),
    )


@pytest.mark.parametrize("name", EXACT)
@given(problem=blocks(sides=(4,)))
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
def test_permuting_rows_and_columns_changes_nothing(name, problem):
    scores, n = problem
    rng = np.random.default_rng(0)
    mixed = np.ascontiguousarray(scores[:, rng.permutation(4)][:, :, rng.permutation(4)])
    close(
        name,
        objectives(scores, solve(name, scores, n).masks),
        objectives(mixed, solve(name, mixed, n).masks),
    )


@pytest.mark.parametrize("name", SOLVERS)
def test_a_batch_is_worth_the_same_as_a_loop(name):
    scores = make_blocks("normal", 6, 4)
    together = objectives(scores, solve(name, scores, 2).masks)
    alone = [objectives(block, solve(name, block, 2).masks)[0] for block in np.split(scores, len(scores))]
    close(name, together, alone)


@pytest.mark.parametrize("name", SOLVERS)
def test_same_input_same_mask(name):
    scores = make_blocks("ties", 4, 4)
    np.testing.assert_array_equal(solve(name, scores, 2).masks, solve(name, scores, 2).masks)


@pytest.mark.parametrize("name", SOLVERS)
def test_n_equal_m_keeps_everything(name):
    assert solve(name, make_blocks("normal", 2, 4), 4).masks.all()


@pytest.mark.parametrize("name", SOLVERS)
def test_scores_are_left_alone(name):
    scores = make_blocks("normal", 3, 4)
    before = scores.copy()
    assert scores.flags.writeable  # so that it gets them themselves, and not a copy
    solve(name, scores, 2)
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("name", SOLVERS)
def test_weights_are_left_alone(name):
    """Some solve them where they lie."""
    weight = np.random.default_rng(0).standard_normal((12, 16)).astype(np.float32)
    before = weight.copy()
    tmask.solve(weight, "2:4", name)
    np.testing.assert_array_equal(weight, before)


@pytest.mark.parametrize("name", SOLVERS)
def test_prices_are_claimed_only_with_the_right_shape(name):
    prices = solve(name, make_blocks("normal", 3, 4), 2).prices
    assert prices is None or (prices.shape == (3, 4) and prices.dtype == np.float64)


@pytest.mark.parametrize("name", HEURISTIC)
def test_heuristics_come_close_on_ordinary_blocks(name):
    scores = make_blocks("normal", 20, 4)
    kept = objectives(scores, solve(name, scores, 2).masks).sum()
    assert kept >= 0.8 * brute_force(scores, 2).sum()


@pytest.mark.parametrize("name", SOLVERS)
def test_ragged_weights_keep_at_most_n_per_line(name):
    weight = make_blocks("normal", 1, 7)[0][:, :6]
    solution = tmask.solve(weight, "2:4", solver=name)
    assert solution.mask.shape == weight.shape
    assert solution.solver.startswith(name)
    if solution.status is not tmask.Status.UNDERFILLED:
        tmask.check_mask(solution.mask, "2:4")


@pytest.mark.parametrize("name", SOLVERS)
def test_settings_are_frozen_dataclass_fields(name):
    solver = get_solver(name)
    with pytest.raises((AttributeError, TypeError)):
        solver.no_such_setting = 1
    with pytest.raises(tmask.InvalidProblemError, match="no setting 'no_such_setting'"):
        get_solver(name, no_such_setting=1)

"""Supports: the best masks of their kind, and settings that are refused."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tmask
from tmask.errors import InvalidProblemError, UnknownSolverError
from tmask.nn.methods.support import Plain, Transposable, Unstructured, largest


def scores(rows, columns, seed=0, ties=False):
    drawn = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))
    return (3 * drawn).round() if ties else drawn


@given(st.integers(1, 5), st.integers(1, 20), st.integers(0, 99), st.booleans(), st.data())
def test_largest_are_the_first_of_a_stable_order(lines, size, seed, ties, data):
    values = scores(lines, size, seed, ties)
    count = data.draw(st.integers(0, size))
    order = values.argsort(dim=1, descending=True, stable=True)[:, :count]
    expected = torch.zeros_like(values, dtype=torch.bool).scatter_(1, order, True)
    assert torch.equal(largest(values, count), expected)


@pytest.mark.parametrize("columns", [8, 10, 3])
def test_plain_keeps_the_largest_of_each_group(columns):
    values = scores(5, columns)
    found = Plain("2:4").project(values)
    for row, start in itertools.product(range(5), range(0, columns, 4)):
        group = values[row, start : start + 4]
        kept = found.mask[row, start : start + 4]
        assert float(group[kept].sum()) == pytest.approx(float(group.topk(min(2, len(group))).values.sum()))
    assert found.worth.optimality_gap == 0
    assert found.worth.retained == pytest.approx(float(values[found.mask].sum() / values.sum()))


def test_unstructured_by_layer_or_row():
    values = scores(4, 10) * torch.tensor([1.0, 10.0, 100.0, 1000.0])[:, None]
    by_layer, by_row = (Unstructured(0.5, across=across).project(values).mask for across in ("layer", "row"))
    assert by_layer.sum(1).tolist() != [5, 5, 5, 5]
    assert int(by_layer.sum()) == 20
    assert by_row.sum(1).tolist() == [5, 5, 5, 5]
    assert float(values[by_layer].min()) >= float(values[~by_layer].max())


def test_transposable_is_what_solve_finds():
    values = scores(8, 12)
    found = Transposable("2:4").project(values)
    solution = tmask.solve(values, "2:4")
    assert torch.equal(found.mask, solution.mask)
    assert found.worth.objective == pytest.approx(solution.objective)
    assert found.worth.optimality_gap == 0
    assert found.solver == solution.solver


@pytest.mark.parametrize("shape", [(16, 16), (10, 13), (3, 5)], ids=str)
@pytest.mark.parametrize("solver", ["auto", "greedy-keep", "ortools-flow"])
def test_one_projection_starts_the_next(shape, solver):
    """With prices or without, on full tiles or cut ones: as good as from nothing."""
    pytest.importorskip("ortools")
    support = Transposable("4:8", solver)
    first = support.project(scores(*shape))
    moved = scores(*shape) + 0.05 * scores(*shape, seed=1)
    after, alone = support.project(moved, first), support.project(moved)
    assert after.worth.objective == pytest.approx(alone.worth.objective)


def test_certify_off():
    for support, certify in ((Transposable("2:4", certify=False), True), (Transposable("2:4"), False)):
        assert support.project(scores(8, 8), certify=certify).worth.dual_bound is None


def test_greedy_is_judged():
    gap = Transposable("2:4", "greedy-keep").project(scores(32, 32)).worth.optimality_gap
    assert 0 < gap < 0.2


def test_refused():
    with pytest.raises(InvalidProblemError, match="2-4"):
        Plain("2-4")
    with pytest.raises(InvalidProblemError, match="5:4"):
        Transposable("5:4")
    for density in (0, 1.5, float("nan"), True, "half"):
        with pytest.raises(InvalidProblemError, match="density"):
            Unstructured(density)
    with pytest.raises(InvalidProblemError, match="across"):
        Unstructured(0.5, across="column")
    with pytest.raises(InvalidProblemError, match="NaN"):
        Plain("2:4").project(torch.full((2, 4), float("nan")))
    with pytest.raises(UnknownSolverError):
        Transposable("2:4", "gredy").project(scores(4, 4))

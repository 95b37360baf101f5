"""AdaPrune's fold of what is removed into what is kept."""

import torch

from tests.nn.methods.problems import problem
from tmask.nn.methods.adaprune import fold
from tmask.nn.methods.problem import Problem
from tmask.nn.methods.registry import get_method
from tmask.nn.methods.support import Plain


def test_each_group_keeps_its_sum():
    weight, mask = torch.randn(5, 10), Plain("2:4").project(torch.rand(5, 10)).mask
    folded = fold(weight, mask, 4)
    assert bool((folded[~mask] == 0).all())
    for start in (0, 4, 8):
        group = slice(start, start + 4)
        torch.testing.assert_close(folded[:, group].sum(1), weight[:, group].sum(1))


def test_a_group_that_keeps_nothing_stays_empty():
    assert not bool(fold(torch.ones(1, 4), torch.zeros(1, 4, dtype=torch.bool), 4).any())


def test_inputs_that_are_all_equal_lose_nothing():
    drawn = Problem(torch.linspace(0.1, 1.5, 48).reshape(6, 8), torch.ones(8, 8), None, Plain("2:4"))
    assert get_method("adaprune", refit=False).prune(drawn).error < 1e-9
    assert get_method("magnitude", refit=False).prune(drawn).error > 0.05


def test_a_fold_that_harms_is_left_out():
    drawn = problem(Plain("2:4"), 64, 16, dtype=torch.float64)
    folded, plain = (get_method(name, refit=False).prune(drawn) for name in ("adaprune", "magnitude"))
    kept = (folded.weight == plain.weight).all(1)
    assert bool(kept.any())
    assert not bool(kept.all())
    assert folded.error < plain.error

"""Masks of several layers found together, as on a device: tensors on the CPU, which is taken for one."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

import tmask
from tests.solvers.cuda_machines import simulate
from tmask.blocks.pattern import Pattern
from tmask.nn import Periodic, sparsify
from tmask.nn.layers.finding import MaskFinder, Wanted
from tmask.nn.mask.cutting import WHOLE, Cutting
from tmask.nn.mask.shards import counted
from tmask.solving import devices
from tmask.solving.solver import Solver
from tmask_solvers.midpoint_cuda import MidpointCuda


@pytest.fixture(params=["midpoint-torch", "midpoint-cuda"])
def solver(request, monkeypatch) -> str | Solver:
    monkeypatch.setattr("tmask.solving.together.stays_on_device", lambda *_: True)
    if request.param == "midpoint-torch":
        return "auto"
    simulate(monkeypatch)
    return MidpointCuda()


@pytest.fixture
def fetched(monkeypatch) -> list[int]:
    """A number for each time that the device was waited for: of how many parts."""
    seen: list[int] = []
    original = devices._fetch
    monkeypatch.setattr(devices, "_fetch", lambda usable, parts: seen.append(len(parts)) or original(usable, parts))
    return seen


def wanted(seed: int = 0) -> list[Wanted]:
    draw = torch.Generator().manual_seed(seed)
    shapes = {"a": (8, 12), "b": (4, 16), "conv": (8, 4, 1, 1), "stack": (2, 4, 8), "dense": (3, 5)}
    weights = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    weights["b"] = weights["b"].bfloat16()
    return [
        Wanted(name, weight, None if name == "dense" else Pattern(2, 4), Cutting(1, True) if name == "stack" else WHOLE)
        for name, weight in weights.items()
    ]


def test_all_layers_are_fetched_once_and_have_the_masks_that_each_has_alone(solver, fetched):
    finder = MaskFinder(solver)
    found = finder.find_all(wanted(), 3)
    assert fetched == [5]
    for name, weight, pattern, cutting, _ in wanted():
        alone = MaskFinder("auto").find(name, weight, pattern, cutting, 3)
        assert torch.equal(found[name].mask, alone.mask)
        assert found[name].worth.objective == pytest.approx(alone.worth.objective, rel=1e-14)
        assert found[name].worth.dual_bound == pytest.approx(alone.worth.dual_bound, rel=1e-14)
        assert found[name].complete == alone.complete
        assert found[name].seconds > 0


def test_an_error_names_the_layer_and_the_step(solver):
    layers = wanted()
    layers[1].weight[2, 5] = torch.nan
    with pytest.raises(tmask.InvalidProblemError, match=r"^step 7, layer 'b': .*NaN or infinite.*\(2, 5\)"):
        MaskFinder(solver).find_all(layers, 7)


def test_a_solver_that_fails_names_all_layers(monkeypatch):
    monkeypatch.setattr("tmask.solving.together.stays_on_device", lambda *_: True)
    monkeypatch.setattr("tmask_solvers.midpoint_torch.MidpointTorch.solve_many", lambda *_: 1 / 0)
    with pytest.raises(
        tmask.SolverFailedError, match=r"^step 7, layer 'a, b, conv, stack, dense': .*ZeroDivisionError"
    ):
        MaskFinder("auto").find_all(wanted(), 7)


@pytest.mark.parametrize("settings", [{"score": lambda name, weight: weight.abs()}, {"keep_zeros": True}])
def test_scores_and_kept_zeros_take_one_layer_at_a_time(solver, fetched, settings):
    layers = [one for one in wanted() if one.pattern]
    assert set(MaskFinder("auto", **settings).find_all(layers, 0)) == {one.name for one in layers}
    assert fetched == []


def test_a_renewal_of_a_model_waits_once(solver, fetched):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
    sparsifier = sparsify(model, "2:4", solver=solver, schedule=Periodic(every=1))
    assert fetched == [2]
    with torch.no_grad():
        for weight in (layer.weight for layer in sparsifier.layers):
            weight.copy_(torch.randn(weight.shape))
    renewal = sparsifier.step()
    assert fetched == [2, 2]
    assert [row.flips > 0 for row in renewal.layers] == [True, True]
    for layer in sparsifier.layers:
        tmask.check_mask(layer.masked.mask, "2:4")


def test_counts_are_fetched_in_their_order():
    assert counted([torch.tensor(3), torch.tensor(0), torch.tensor(2**40)]) == [3, 0, 2**40]
    assert counted([]) == []

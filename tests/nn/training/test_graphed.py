"""Training steps in CUDA graphs: the helper's book-keeping on a CPU; graphs, compiled and by hand, on a GPU."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

import tmask
from tests.nn.unpacked_route import unpacked  # noqa: F401 - a fixture
from tmask.nn import GraphedStep, Periodic, sparsify
from tmask.nn.packing import payoff
from tmask.nn.training import graphed, reminder

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture
def captures(monkeypatch):
    """How often a step was captured."""
    calls = []
    monkeypatch.setattr(graphed, "captured", lambda step, device: calls.append(step) or step)
    return calls


def model_and_step(backend, device="cpu", every=3, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 192), nn.GELU(), nn.Linear(192, 64)).to(device, torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsify(model, solver="patterns", schedule=Periodic(every=every), optimizer=optimizer, backend=backend, **options)
    x = torch.randn(40, 128, device=device).bfloat16()

    def passes():
        loss = model(x).float().square().mean()
        loss.backward()
        return loss.detach()

    return model, optimizer, passes


@pytest.mark.usefixtures("emulated_cusparselt")
def test_it_trains_as_the_plain_step_and_steps_need_no_other_capture(captures):
    losses = []
    for graph in (False, True):
        model, optimizer, passes = model_and_step("semi_structured")
        step = GraphedStep(model, passes) if graph else passes
        for count in range(9):
            optimizer.zero_grad()
            losses.append(float(step()))
            optimizer.step()
            if graph and count == 2:
                assert len(captures) == 1  # values were written in place, twice
    assert losses[:9] == losses[9:]
    assert len(captures) == 1  # new masks are written in place as well


def test_packed_weights_that_lie_elsewhere_ask_for_another_capture(captures, monkeypatch):
    _, _, passes = model_and_step("masked")
    step = GraphedStep(nn.Linear(2, 2), passes)
    for places in ((1, 2), (1, 2), (1, 3), (1, 3)):
        monkeypatch.setattr(graphed, "addresses", lambda module, places=places: places)
        step()
    assert len(captures) == 2


def test_the_graph_before_is_let_go_of_before_another_is_captured(monkeypatch):
    """Both at once would take the memory of two steps."""
    alive = []

    class Graph:
        def __init__(self, step):
            self.replay = step

    def capture(step, device):
        assert [one for one in alive if one() is not None] == []
        step()
        graph = Graph(step)
        alive.append(weakref.ref(graph))
        return lambda graph=graph: graph.replay()

    monkeypatch.setattr(graphed, "captured", capture)
    model = nn.Linear(8, 8)
    step = GraphedStep(model, lambda: model(torch.ones(2, 8)).sum())
    for place in range(3):
        monkeypatch.setattr(graphed, "addresses", lambda module, place=place: (place,))
        torch.testing.assert_close(step(), model(torch.ones(2, 8)).sum())


@pytest.mark.parametrize("every", [1, 3])
def test_the_pass_that_is_captured_fetches_nothing(monkeypatch, every):
    """The word about steps that nobody tells of looks at the weights; a capture is no pass, and allows no waiting."""
    capturing, fetched = [False], []
    real = reminder.fingerprint
    monkeypatch.setattr(reminder, "fingerprint", lambda weight: (fetched.append(capturing[0]), real(weight))[1])
    monkeypatch.setattr(reminder, "being_captured", lambda: capturing[0], raising=False)

    def capture(step, device):
        for run in range(4):  # three to warm up
            capturing[0] = run == 3
            step()
        capturing[0] = False
        return step

    monkeypatch.setattr(graphed, "captured", capture)
    model, _, passes = model_and_step("masked", every=every)
    GraphedStep(model, passes)()
    assert fetched
    assert not any(fetched)


def test_masked_layers_never_need_another_capture(captures):
    model, optimizer, passes = model_and_step("masked")
    step = GraphedStep(model, passes)
    for _ in range(7):
        step()
        optimizer.step()
    assert len(captures) == 1


@pytest.mark.usefixtures("unpacked")
def test_auto_measures_for_the_tokens_and_the_mode_that_it_is_told(monkeypatch):
    asked = []
    monkeypatch.setattr(payoff, "pays", lambda *args: (asked.append(args[3:]), (True, "measured"))[1])
    model_and_step("auto", tokens=512, cuda_graphs=True)
    assert set(asked) == {(512, True)}
    asked.clear()
    model_and_step("auto")
    assert set(asked) == {(payoff.TOKENS, False)}


@pytest.mark.parametrize("tokens", [0, -1, 1.5, True])
def test_tokens_that_are_none_are_refused(tokens):
    with pytest.raises(tmask.InvalidProblemError, match="give the tokens in a batch"):
        sparsify(nn.Linear(32, 32), tokens=tokens)


@gpu
@pytest.mark.parametrize("backend", ["masked", "semi_structured"])
def test_cuda_graph_trains_as_the_plain_step(backend):
    losses = []
    for graph in (False, True):
        model, optimizer, passes = model_and_step(backend, "cuda")
        step = GraphedStep(model, passes) if graph else passes
        for _ in range(9):
            optimizer.zero_grad()
            losses.append(float(step()))
            optimizer.step()
    assert losses[9:] == pytest.approx(losses[:9], rel=1e-2)


@gpu
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_cuda_compiled_trains_as_the_plain_step(mode):
    losses = []
    for compiled in (False, True):
        model, optimizer, _ = model_and_step("semi_structured", "cuda")
        call = torch.compile(model, mode=mode, fullgraph=True) if compiled else model
        x = torch.randn(40, 128, device="cuda", generator=torch.Generator("cuda").manual_seed(1)).bfloat16()
        for _ in range(7):
            optimizer.zero_grad()
            loss = call(x).float().square().mean()
            loss.backward()
            losses.append(float(loss.detach()))
            optimizer.step()
    assert losses[7:] == pytest.approx(losses[:7], rel=1e-2)

"""Whether packed weights pay: by the times of the mode that is asked for, kept on disk."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from tmask.nn.packing import graph_timing, payoff, remembered
from tmask.nn.packing.graph_timing import GraphTiming, measure_graphs
from tmask.nn.packing.timing import Timing

CPU = torch.device("cpu")


@pytest.fixture
def clocks(unpacked, monkeypatch, tmp_path):
    """Packed loses eagerly and wins in a graph; counts what is measured."""
    monkeypatch.setattr(remembered, "DEVICES", ("cpu",))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    asked = []

    def eager(route, shape, dtype, device, tokens):
        asked.append(("eager", tokens))
        return Timing(tokens, 1, 2, 1.5, 2, 0.1, 0.2)

    def graph(route, shape, dtype, device, tokens):
        asked.append(("graph", tokens))
        return GraphTiming(tokens, 2.9, 3.0, asked.count(("graph", tokens)) * 2.5)

    monkeypatch.setattr(payoff, "measure_linear", eager)
    monkeypatch.setattr(payoff, "measure_graphs", graph)
    return asked


def test_in_graph_mode_the_graphs_count(clocks):
    assert payoff.pays((64, 64), torch.bfloat16, CPU)[0] is False
    pays, text = payoff.pays((64, 64), torch.bfloat16, CPU, 512, True)
    assert pays
    assert text == "unpacked: 2.5e+03 ms packed in a graph against 3e+03 ms masked, measured with 512 tokens"
    assert clocks == [("eager", payoff.TOKENS), ("graph", 512)]


def test_measured_once_and_read_from_disk_by_the_next_process(clocks, monkeypatch):
    first = payoff.pays((64, 64), torch.bfloat16, CPU, 512, True)
    monkeypatch.setattr(payoff, "_paid", {})
    assert payoff.pays((64, 64), torch.bfloat16, CPU, 512, True) == first
    assert len(clocks) == 1


def test_another_version_of_tmask_measures_for_itself(clocks, monkeypatch):
    payoff.pays((64, 64), torch.bfloat16, CPU, 512, True)
    monkeypatch.setattr(payoff, "_paid", {})
    monkeypatch.setattr(payoff, "__version__", "99", raising=False)
    payoff.pays((64, 64), torch.bfloat16, CPU, 512, True)
    assert len(clocks) == 2


@pytest.mark.parametrize("graphs", [True, False])
def test_a_kernel_that_fails_while_it_is_timed_does_not_pay(clocks, monkeypatch, graphs):
    """Verification has seen few tokens; "auto" is the default, and must not end a training that can go on masked."""

    def fail(*_):
        raise RuntimeError("CUDA error: internal error when calling cusparseLtMatmul")

    monkeypatch.setattr(payoff, "measure_graphs" if graphs else "measure_linear", fail)
    with pytest.warns(RuntimeWarning, match="masked products instead of packed ones: CUDA error: internal error"):
        assert payoff.pays((64, 64), torch.bfloat16, CPU, 512, graphs)[0] is False


@pytest.mark.parametrize(("sparse", "pays"), [(2.99, False), (2.9, True), (3.01, False)])
def test_a_gain_within_the_noise_is_none(clocks, monkeypatch, sparse, pays):
    monkeypatch.setattr(payoff, "measure_graphs", lambda *_: GraphTiming(8, 2.9, 3.0, sparse))
    assert payoff.pays((64, 64), torch.bfloat16, CPU, 8, True)[0] is pays


def test_what_could_not_be_measured_is_tried_again(clocks, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(payoff, "measure_graphs", lambda *_: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("full")))
        assert not payoff.pays((64, 64), torch.bfloat16, CPU, 512, True)[0]
    monkeypatch.setattr(payoff, "_paid", {})
    assert payoff.pays((64, 64), torch.bfloat16, CPU, 512, True)[0]


def test_steps_are_timed_whole(unpacked):
    timing = measure_graphs(unpacked, (64, 128), torch.bfloat16, CPU, 16, repeats=1)
    assert timing.tokens == 16
    assert min(timing.dense, timing.masked, timing.sparse) > 0
    assert unpacked.packs >= 2  # the sparse step packs


def test_other_threads_may_use_the_device_while_a_step_is_captured(monkeypatch):
    """A DataLoader with pin_memory has one that does, at any time."""
    modes, steps = [], []

    def graph(_, capture_error_mode="global"):
        modes.append(capture_error_mode)
        return contextlib.nullcontext()

    stream = SimpleNamespace(wait_stream=lambda other: None)
    stand_ins = {
        "device": lambda _: contextlib.nullcontext(),
        "stream": lambda _: contextlib.nullcontext(),
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "CUDAGraph": lambda: SimpleNamespace(replay="replay"),
        "graph": graph,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    assert graph_timing.captured(lambda: steps.append(0), torch.device("cuda", 0)) == "replay"
    assert modes == ["thread_local"]
    assert len(steps) == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_graph_on_cuda_is_of_what_the_step_does():
    x = torch.ones(8, device="cuda")
    replay = graph_timing.captured(lambda: x.add_(1), torch.device("cuda", 0))
    before = float(x[0])
    replay()
    assert float(x[0]) == before + 1

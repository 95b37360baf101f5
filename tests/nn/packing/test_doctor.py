"""Diagnoses: who is eligible where, and what measured times say."""

from __future__ import annotations

import itertools

import pytest
import torch

from tmask.errors import InvalidProblemError
from tmask.nn.packing import doctor, timing
from tmask.nn.packing.doctor import Diagnosis, diagnose
from tmask.nn.packing.machine import examine, kernels
from tmask.nn.packing.timing import Timing

CPU = torch.device("cpu")


class Stopwatch:
    """A layer whose packed step is as fast as the dense one at this many tokens, and faster beyond."""

    def __init__(self, break_even):
        self.break_even = break_even
        self.asked = []

    def __call__(self, route, shape, dtype, device, tokens, repeats):
        self.asked.append((shape, tokens))
        return Timing(
            tokens=tokens, dense_forward=tokens, dense_backward=2 * tokens, sparse_forward=0.5 * tokens,
            sparse_backward=1.5 * tokens, mask=0.1, pack=self.break_even,
        )  # fmt: skip


def test_without_a_gpu_it_says_where_layers_would_be_eligible():
    results = {
        result.name: result
        for result in diagnose(
            [("mlp", (256, 128)), ("narrow", (48, 80)), ("odd", (10, 128)), ("conv", (64, 64, 3, 3))],
            "bfloat16",
            CPU,
            [8],
        )
    }
    assert results["mlp"].eligible_for == ("cutlass", "cusparselt")
    assert results["narrow"].eligible_for == ("cusparselt",)
    assert results["odd"].eligible_for == results["conv"].eligible_for == ()
    assert results["mlp"].verdict == "no sparse kernel runs on a cpu device"
    assert "10x128; cusparselt needs both sides in multiples of 16" in results["odd"].verdict
    assert "4 axes" in results["conv"].verdict
    assert not any(result.timings or result.route for result in results.values())


def test_projections_of_attention_go_by_their_names():
    layers = ["block.attn.in_proj_weight", "block.attn.out_proj.weight", "other.out_proj.weight"]
    results = list(diagnose([(name, (256, 128)) for name in layers], "bfloat16", CPU, [8]))
    assert [bool(result.eligible_for) for result in results] == [False, False, True]
    assert results[0].verdict == results[1].verdict == "MultiheadAttention reads its weights past any packed product"


def test_float32_is_eligible_for_nothing():
    (result,) = diagnose([("mlp", (256, 128))], "float32", CPU, [8])
    assert result.eligible_for == ()
    assert "float32; the kernels multiply float16 and bfloat16 (autocast" in result.verdict


@pytest.mark.parametrize(("break_even", "verdict"), [(1000, 1024), (1024, 1024), (1025, 2048), (10**9, None)])
def test_the_break_even_is_the_first_count_where_a_whole_step_is_no_slower(unpacked, break_even, verdict):
    watch = Stopwatch(break_even)
    (result,) = diagnose([("mlp", (64, 128))], "bfloat16", CPU, [512, 4096], measure=watch)
    assert result.route == "unpacked"
    assert [timing.tokens for timing in result.timings] == [512, 4096]
    assert result.break_even == verdict
    expected = (
        f"pays from {verdict} tokens on" if verdict else "not worth it here: slower than dense up to 65536 tokens"
    )
    assert result.verdict == expected


def test_each_shape_is_measured_once(unpacked):
    watch = Stopwatch(1)
    layers = [("a", (64, 64)), ("b", (64, 128)), ("c", (64, 64))]
    results = list(diagnose(layers, "float16", CPU, [8], measure=watch))
    assert [result.name for result in results] == ["a", "b", "c"]
    assert [result.shape for result in results] == [shape for _, shape in layers]
    assert len([shape for shape, tokens in watch.asked if tokens == 8]) == 2
    assert results[0].timings == results[2].timings


def test_what_does_not_fit_here_is_not_measured(unpacked):
    watch = Stopwatch(1)
    (result,) = diagnose([("narrow", (48, 80))], "float16", CPU, [8], measure=watch)
    assert "unpacked needs both sides in multiples of 32" in result.verdict
    assert result.eligible_for == ("cusparselt",)
    assert not watch.asked


def test_wrong_kernels_are_told_and_not_measured(unpacked):
    unpacked.shift = 1
    watch = Stopwatch(1)
    (result,) = diagnose([("mlp", (64, 64))], "float16", CPU, [8], measure=watch)
    assert "puts wrong values" in result.verdict
    assert not watch.asked


def test_memory_that_does_not_suffice_is_told(unpacked):
    def measure(route, shape, dtype, device, tokens, repeats):
        if tokens > 8:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return Stopwatch(1)(route, shape, dtype, device, tokens, repeats)

    (result,) = diagnose([("mlp", (64, 64))], "float16", CPU, [8, 10**6], measure=measure)
    assert result.verdict == "no memory to measure it; give fewer --tokens"
    assert [timing.tokens for timing in result.timings] == [8]


def test_a_kernel_that_fails_at_some_count_of_tokens_is_told_and_the_next_layer_judged(unpacked):
    def measure(route, shape, dtype, device, tokens, repeats):
        if (shape, tokens) == ((64, 64), 16):
            raise RuntimeError("CUDA error: internal error when calling cusparseLtMatmul")
        return Stopwatch(1)(route, shape, dtype, device, tokens, repeats)

    failing, fine = diagnose([("mlp", (64, 64)), ("up", (64, 96))], "float16", CPU, [8, 16], measure=measure)
    assert failing.verdict == "CUDA error: internal error when calling cusparseLtMatmul"
    assert [timing.tokens for timing in failing.timings] == [8]
    assert [timing.tokens for timing in fine.timings] == [8, 16]


@pytest.mark.parametrize(
    ("dtype", "tokens", "text"),
    [("fp8", [8], "one of bfloat16, float16, float32"), ("float16", [8, 0], "0 is no count")],
)
def test_bad_questions_are_refused_at_once(dtype, tokens, text):
    with pytest.raises(InvalidProblemError, match=text):
        diagnose([("mlp", (64, 64))], dtype, CPU, tokens)


def test_the_machine(unpacked):
    machine = examine(CPU)
    assert (machine.device, machine.capability, machine.route, machine.problem) == ("cpu", "", "unpacked", "")
    assert machine.torch == torch.__version__
    listed = {row["kernels"]: row for row in kernels(CPU)}
    assert listed["cutlass"]["not here because"] == "no sparse kernel runs on a cpu device"
    assert listed["cusparselt"]["sides in multiples of"] == "16"
    assert listed["unpacked"]["not here because"] == ""
    assert examine(torch.device("meta")).problem.startswith("no sparse kernel runs on a meta device")


def test_times_are_medians_taken_in_turn(monkeypatch):
    samples = {"fast": itertools.cycle([1.0, 2.0, 9.0]), "slow": itertools.cycle([5.0, 50.0, 6.0])}
    order = []

    def clock(call, device):
        order.append(call())
        return next(samples[order[-1]])

    monkeypatch.setattr(timing, "_cpu_seconds", clock)
    seconds = timing.time_in_turn({"fast": lambda: "fast", "slow": lambda: "slow"}, CPU, repeats=3)
    assert seconds == {"fast": 2.0, "slow": 6.0}
    assert order == ["fast", "slow"] * 3


def test_a_measured_layer(unpacked):
    measured = timing.measure_linear(unpacked, (64, 128), torch.bfloat16, CPU, 16, repeats=1)
    parts = ("dense_forward", "dense_backward", "sparse_forward", "sparse_backward", "mask", "pack")
    assert all(getattr(measured, part) > 0 for part in parts)
    assert measured.sparse == measured.sparse_forward + measured.sparse_backward + measured.pack
    assert measured.masked == measured.dense_forward + measured.dense_backward + measured.mask
    assert measured.speed_up == measured.dense / measured.sparse


def test_a_diagnosis_without_timings_has_a_reason():
    assert Diagnosis("mlp", (64, 64), reason="why").verdict == "why"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_real_gpu():
    (result,) = diagnose([("mlp", (1024, 2048))], "bfloat16", doctor.default_device(), [256])
    assert result.verdict
    assert result.timings or result.reason

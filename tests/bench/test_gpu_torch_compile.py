"""Compiled steps in the GPU benchmark: their rows, on a stand-in for the compiler, and once through the real one."""

from __future__ import annotations

import csv
import shutil

import pytest
import torch

from bench import gpu_torch_compile, gpu_training
from bench.gpu_torch_compile import BACKENDS, MODES, compiled_cases
from bench.gpu_training import Scale, cases, main, measure
from tests.nn.unpacked_route import Unpacked
from tmask.errors import InvalidProblemError, KernelError
from tmask.nn.packing import routes, verification

CPU = torch.device("cpu")
TINY = Scale(((64, 128),), (8,), ((64, 1, 8), (128, 1, 8)), repeats=3)
NUMBERS = (
    "dense_compile_seconds",
    "compile_seconds",
    "step_over_dense",
    "step_over_dense_least",
    "step_over_dense_most",
    "dense_step_seconds",
    "step_seconds",
)


@pytest.fixture(autouse=True)
def unpacked(monkeypatch):
    monkeypatch.setattr(verification, "_verified", set())
    monkeypatch.setitem(routes.ROUTES, "unpacked", Unpacked())


@pytest.fixture
def events(monkeypatch):
    """What happens, in order, with a compiler that leaves a model as it is."""
    seen = []

    def compile(model, **how):
        seen.append(("compile", how))
        model.register_forward_pre_hook(lambda *_: seen.append("forward"))
        return model

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: seen.append("begin"))
    monkeypatch.setattr(torch._dynamo, "reset", lambda: seen.append("reset"))
    return seen


def run(out, scale=TINY, compiled="only"):
    measure(CPU, scale, "patterns", out, compiled)
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_backend_has_its_step_over_a_dense_one_in_each_mode_and_block(events, tmp_path):
    rows = run(tmp_path / "gpu.csv")
    assert not any(row["failure"] for row in rows)
    assert {row["part"] for row in rows} == {"compiled"}
    found = [(row["quantity"], row["backend"], row["in_features"]) for row in rows]
    assert sorted(found) == sorted(
        (f"{mode}_{name}", backend, width)
        for mode in MODES for backend in BACKENDS for width in ("64", "128") for name in NUMBERS
    )  # fmt: skip
    assert all(float(row["value"]) > 0 for row in rows)
    # What a run that is cut off should have: what "auto" takes, where graphs are.
    assert found[0][:2] == ("reduce_overhead_dense_compile_seconds", "auto")
    assert {backend for quantity, backend, _ in found[:14]} == {"auto"}
    assert {row["route"] for row in rows if row["backend"] != "auto"} == {""}
    assert all(row["route"].endswith("of 4 packed") for row in rows if row["backend"] == "auto")


def test_ratios_are_of_steps_in_one_round():
    numbers = gpu_torch_compile._numbers({"dense_": [1.0, 2.0, 4.0], "": [3.0, 2.0, 2.0]})
    assert numbers == {
        "step_over_dense": 1.0, "step_over_dense_least": 0.5, "step_over_dense_most": 3.0,
        "dense_step_seconds": 2.0, "step_seconds": 2.0,
    }  # fmt: skip


def test_each_pair_is_compiled_anew_in_its_mode_and_each_step_is_announced(events, tmp_path):
    run(tmp_path / "gpu.csv", Scale((), (), ((64, 1, 8),), repeats=1, modes=("reduce_overhead",)))
    how = {"mode": "reduce-overhead", "fullgraph": True}
    text = ["begin", "forward"]
    one = ["reset", ("compile", how), *text, ("compile", how), *text, *text * 8, "reset"]
    assert events == one * len(BACKENDS)
    assert set(MODES.values()) == {"reduce-overhead", "default"}


def test_auto_is_told_the_tokens_and_whether_there_will_be_graphs(events, tmp_path, monkeypatch):
    asked = []
    sparsify = gpu_torch_compile.sparsify

    def noted(model, pattern, **settings):
        asked.append((settings["backend"], settings["tokens"], settings["cuda_graphs"]))
        return sparsify(model, pattern, **settings)

    monkeypatch.setattr(gpu_torch_compile, "sparsify", noted)
    run(tmp_path / "gpu.csv", Scale((), (), ((64, 2, 8),), repeats=1))
    assert asked == [(backend, 16, graphs) for graphs in (True, False) for backend in BACKENDS]


def test_a_setting_that_fails_is_a_row_and_the_others_go_on(events, tmp_path, monkeypatch):
    compile = torch.compile

    def fails(model, mode, fullgraph):
        if hasattr(model.qkv, "_tmask_packed"):
            raise KeyError("no code: " + 1000 * "x")
        return compile(model, mode=mode, fullgraph=fullgraph)

    monkeypatch.setattr(torch, "compile", fails)
    monkeypatch.setattr(gpu_torch_compile, "BACKENDS", ("semi_structured", "masked"))
    rows = run(tmp_path / "gpu.csv", Scale((), (), ((64, 1, 8),), repeats=1))
    failed = [row for row in rows if row["failure"]]
    assert [(row["backend"], row["quantity"], row["value"]) for row in failed] == [
        ("semi_structured", f"{mode}_step_over_dense", "") for mode in MODES
    ]
    assert all("no code" in row["failure"] and len(row["failure"]) <= 300 for row in failed)
    assert sum(row["quantity"].endswith("step_over_dense") and row["value"] != "" for row in rows) == 2


def test_what_a_device_refuses_is_not_compiled(events, tmp_path, monkeypatch):
    monkeypatch.delitem(routes.ROUTES, "unpacked")
    monkeypatch.setattr(gpu_torch_compile, "BACKENDS", ("semi_structured",))
    (row,) = run(tmp_path / "gpu.csv", Scale((), (), ((64, 1, 8),), repeats=1, modes=("compiled",)))
    assert "no sparse kernel runs on a cpu device" in row["failure"]
    assert events == ["reset", "reset"]


def test_graphs_that_torch_left_out_are_told(events, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(gpu_torch_compile, "_check_graphs", lambda *arguments: pytest.fail(f"none for {arguments}"))
        with pytest.raises(pytest.fail.Exception, match=r"none for .'reduce-overhead', device"):
            run(tmp_path / "gpu.csv")
    with (tmp_path / "gpu.csv").open(newline="") as file:
        assert [row["value"] != "" for row in csv.DictReader(file)] == [True] * len(NUMBERS)  # these stand
    monkeypatch.setitem(torch._dynamo.utils.counters["inductor"], "cudagraph_skips", 2)
    with pytest.raises(KernelError, match="torch left out 2 CUDA graphs in mode reduce-overhead"):
        gpu_torch_compile._check_graphs("reduce-overhead", torch.device("cuda"))
    gpu_torch_compile._check_graphs("reduce-overhead", CPU)
    gpu_torch_compile.forget_compiled()
    gpu_torch_compile._check_graphs("reduce-overhead", torch.device("cuda"))


@pytest.mark.usefixtures("events")
def test_they_come_last_or_alone_or_not_at_all(monkeypatch):
    parts = {
        compiled: [base.part for base, _ in cases(CPU, TINY, "patterns", compiled)]
        for compiled in ("no", "last", "only")
    }
    assert set(parts["only"]) == {"compiled"}
    assert len(parts["only"]) == 2 * 3 * 2
    assert "compiled" not in parts["no"]
    assert parts["last"] == parts["no"] + parts["only"]
    given = []
    monkeypatch.setattr(gpu_training, "measure", lambda *arguments: given.append(arguments[-1]))
    main(solver="patterns", compiled="only", dry_run=True)
    main(solver="patterns", dry_run=True)
    assert given == ["only", "no"]
    with pytest.raises(InvalidProblemError, match="compiled is 'never'; it can be: no, last, only"):
        main(compiled="never", dry_run=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_packed_steps_run_through_the_real_compiler():
    (case,) = [
        run
        for base, run in compiled_cases(CPU, ((64, 1, 8),), ("reduce_overhead",), "patterns", 1)
        if base.backend == "semi_structured"
    ]
    rows = list(case())
    assert [row.failure for row in rows] == [""] * len(NUMBERS)
    assert {row.quantity for row in rows} == {f"reduce_overhead_{name}" for name in NUMBERS}

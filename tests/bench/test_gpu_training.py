"""The GPU benchmark: nothing without a GPU; its parts, on a stand-in for the kernels; all of it, on a GPU."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import subprocess
import sys

import pytest
import torch

from bench import gpu_parts, gpu_training
from bench.gpu_training import NO_GPU, SCALES, Scale, main, measure
from tests.nn.unpacked_route import Unpacked
from tmask.errors import InvalidProblemError, KernelError, OutputError
from tmask.nn.packing import routes, verification

TINY = Scale(((64, 128),), (8, 13), ((64, 1, 8),), repeats=1)
CPU = torch.device("cpu")
EAGER = ("dense_forward", "dense_backward", "sparse_forward", "sparse_backward", "mask", "pack")


@pytest.fixture
def unpacked(monkeypatch):
    monkeypatch.setattr(verification, "_verified", set())
    monkeypatch.setitem(routes.ROUTES, "unpacked", Unpacked())
    return routes.ROUTES["unpacked"]


def run(out):
    measure(CPU, TINY, "patterns", out)
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_measures_nothing_and_says_so(tmp_path):
    out = tmp_path / "gpu.csv"
    command = [sys.executable, "-m", "bench.gpu_training", "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == NO_GPU
    assert result.stderr.strip() == "no CUDA device here: nothing was measured, nothing was written"
    assert result.stdout == ""
    assert not out.exists()


def test_every_part_yields_its_numbers(unpacked, tmp_path):
    rows = run(tmp_path / "gpu.csv")
    assert {"gpu_device", "gpu_capability", "commit", "cpu", "torch", "value", "failure"} <= set(rows[0])
    mine = [row for row in rows if row["route"] not in routes.ROUTES or row["route"] == "unpacked"]
    assert not any(row["failure"] for row in mine)
    quantities = {}
    for row in mine:
        quantities.setdefault(row["part"], set()).add(row["quantity"])
    assert quantities == {
        "check": {"forward_error", "input_gradient_error", "weight_gradient_error"},
        "linear": {
            f"{name}_seconds"
            for name in (
                "dense_forward",
                "dense_backward",
                "sparse_forward",
                "sparse_backward",
                "mask",
                "pack",
                "graph_dense",
                "graph_masked",
                "graph_sparse",
            )
        },
        "packing": {"pack_seconds", "plan_seconds"},
        "renewal": {"certified_seconds", "uncertified_seconds"},
        "block": {
            "step_seconds",
            "graph_step_seconds",
            "graph_step_over_dense",
            "renewal_seconds",
            "renewal_share_every_1",
            "renewal_share_every_40",
        },
    }
    assert {row["backend"] for row in mine if row["part"] == "block"} == {"dense", "masked", "semi_structured", "auto"}
    (auto,) = [row for row in mine if row["backend"] == "auto"]
    assert float(auto["value"]) > 0
    assert auto["route"] in [f"{count} of 4 packed" for count in range(5)]
    assert {(row["dtype"], row["tokens"]) for row in mine if row["part"] == "linear"} == {
        (dtype, tokens) for dtype in ("bfloat16", "float16") for tokens in ("8", "13")
    }
    errors = [float(row["value"]) for row in mine if row["part"] == "check"]
    assert 0 < max(errors) < 1e-2
    share = {
        row["quantity"]: float(row["value"]) for row in mine if row["backend"] == "masked" and row["part"] == "block"
    }
    assert 0 < share["renewal_share_every_40"] < share["renewal_share_every_1"] < 1
    expected = share["renewal_seconds"] / (share["renewal_seconds"] + 40 * share["step_seconds"])
    assert share["renewal_share_every_40"] == pytest.approx(expected)


def test_renewals_are_timed_warm_and_by_what_they_add_to_a_step(unpacked, tmp_path, monkeypatch):
    """The first one compiles and verifies, and its own figure holds what the device still had to do before it."""
    monkeypatch.setattr("tmask.nn.training.sparsifier.Sparsifier.metrics", lambda _: {"seconds": 1e9})
    found = [row for row in run(tmp_path / "gpu.csv") if row["quantity"] == "renewal_seconds"]
    assert {row["backend"] for row in found} == {"masked", "semi_structured"}
    # Of either sign: on a busy machine a difference of two times can be.
    assert all(abs(float(row["value"])) < 10 for row in found)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_numbers_are_kept_as_they_come(tmp_path, monkeypatch, error):
    """A case of many numbers may be cut off, or fail at the last one."""

    def block(base, *_):
        yield dataclasses.replace(base, quantity="step_seconds", value=1.0)
        raise error("out of time")

    monkeypatch.setattr(gpu_training, "block", block)
    with contextlib.suppress(KeyboardInterrupt):
        measure(CPU, dataclasses.replace(TINY, shapes=()), "patterns", tmp_path / "gpu.csv")
    with (tmp_path / "gpu.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["part"], row["backend"]) == ("block", "")]
    assert rows[0]["value"] == "1.0"
    assert [row["failure"] for row in rows[1:]] == ([] if error is KeyboardInterrupt else ["out of time"])


def test_what_cannot_be_captured_leaves_the_eager_times(unpacked, tmp_path, monkeypatch):
    def fails(*_):
        raise KernelError("no capture")

    monkeypatch.setattr(gpu_parts, "measure_graphs", fails)
    monkeypatch.setattr("tmask.nn.training.graphed.captured", fails)
    rows = [row for row in run(tmp_path / "gpu.csv") if row["part"] in ("linear", "block") and row["value"]]
    assert {row["quantity"] for row in rows} >= {"sparse_forward_seconds", "step_seconds"}
    assert not any(row["quantity"].startswith("graph") for row in rows)


def test_a_route_that_cannot_run_is_a_row(unpacked, tmp_path):
    rows = [row for row in run(tmp_path / "gpu.csv") if row["route"] == "cutlass"]
    assert [row["dtype"] for row in rows] == ["bfloat16", "float16"]
    assert all(row["failure"] == "no sparse kernel runs on a cpu device" and not row["value"] for row in rows)


def test_without_kernels_the_block_runs_dense_and_masked(tmp_path):
    rows = [row for row in run(tmp_path / "gpu.csv") if row["part"] == "block"]
    assert [row["backend"] for row in rows if row["quantity"] == "step_seconds"] == ["dense", "masked"]
    (missing,) = [row for row in rows if row["backend"] == "semi_structured"]
    assert "no sparse kernel runs on a cpu device" in missing["failure"]


def test_a_wrong_kernel_is_a_failure_and_the_rest_goes_on(unpacked, tmp_path):
    unpacked.shift = 1
    rows = run(tmp_path / "gpu.csv")
    wrong = [row for row in rows if row["route"] == "unpacked" or row["backend"] == "semi_structured"]
    assert {row["part"] for row in wrong} == {"check", "linear", "packing", "block"}
    assert all("puts wrong values" in row["failure"] and not row["value"] for row in wrong)
    assert {row["part"] for row in rows if row["value"]} == {"renewal", "block"}


def test_questions_that_make_no_sense_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InvalidProblemError, match="no scale 'huge'; there are: small, full"):
        main(out=tmp_path / "gpu.csv", scale="huge")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_training, "measure", lambda *_: pytest.fail("measured first"))
    with pytest.raises(OutputError, match="no-such-folder"):
        main(out=tmp_path / "no-such-folder" / "gpu.csv", scale="small")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setitem(SCALES, "small", Scale(((256, 512),), (64,), ((256, 1, 64),), repeats=1))
    main(out=tmp_path / "gpu.csv", scale="small", solver="patterns")
    rows = list(csv.DictReader((tmp_path / "gpu.csv").open(newline="")))
    assert {row["part"] for row in rows if row["value"]} >= {"renewal", "block"}
    assert all(row["gpu_device"] not in ("", "cpu") for row in rows)

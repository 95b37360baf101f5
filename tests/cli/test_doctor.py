"""`tmask doctor`."""

from __future__ import annotations

import json
import sys

import pytest

from tests.cli.harness import one_line, run

pytest.importorskip("torch")

import torch

from tests.nn.unpacked_route import Unpacked
from tmask.nn.packing import routes, verification

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@no_gpu
def test_without_a_gpu_it_says_so_and_lists_what_would_be_eligible(weights):
    result = run("doctor", weights, "--shape", "4096x11008", "--shape", "48x64")
    assert "nothing was measured: there is no CUDA device here" in result.stderr
    assert "no sparse kernel runs on a cpu device" in result.stdout
    assert "compute capability 8.x" in result.stdout
    assert "sparsify packs nn.Linear alone, not the Conv1D of GPT-2" in one_line(result.stderr)
    document = json.loads(run("doctor", weights, "--shape", "4096x11008", "--shape", "48x64", "--json").stdout)
    layers = {layer["layer"]: layer for layer in document["layers"]}
    assert layers["4096x11008"]["eligible_for"] == ["cutlass", "cusparselt"]
    assert layers["48x64"]["eligible_for"] == ["cusparselt"]
    assert layers["conv.weight"]["eligible_for"] == []
    assert "4 axes" in layers["conv.weight"]["verdict"]
    assert layers["fc1.weight"]["shape"] == [16, 12]
    assert not any(layer["eligible_here"] or layer["timings"] for layer in layers.values())
    assert {item["name"] for item in document["skipped"]} == {"conv.bias", "embed.weight", "steps"}
    assert document["machine"]["device"] == "cpu"


@no_gpu
def test_nothing_named_is_a_look_at_usual_shapes():
    output = run("doctor").stdout
    assert "4096x4096" in output
    assert torch.__version__ in output


@pytest.mark.parametrize(("version", "shown"), [(800, "0.8.0"), (1102, "1.1.2"), (None, "none")])
def test_it_names_the_versions_that_decide_how_fast_sparse_products_are(monkeypatch, version, shown):
    monkeypatch.setattr(torch.backends.cusparselt, "is_available", lambda: version is not None)
    monkeypatch.setattr(torch.backends.cusparselt, "version", lambda: version)
    for name, problem in (("cusparselt", ""), ("cutlass", "another device")):
        monkeypatch.setattr(type(routes.ROUTES[name]), "problem", lambda self, device, problem=problem: problem)
    result = run("doctor", "--shape", "48x60")  # a shape that no route takes, so that nothing is measured
    assert [line.split()[-2] for line in result.stdout.splitlines() if "│ cuSPARSELt" in line] == [shown]
    said = one_line(result.stderr)
    assert "sets up cuSPARSELt's descriptors anew at each sparse product depends on its version; 2.11 does" in said
    assert f"pytorch PR #177866 keeps them; this is {torch.__version__}" in said


@no_gpu
def test_where_cusparselt_does_not_run_nothing_is_said_of_its_descriptors():
    assert "177866" not in run("doctor").stderr


def test_layers_are_chosen_by_name(weights):
    names = [
        layer["layer"]
        for layer in json.loads(run("doctor", weights, "--include", "fc*", "--exclude", "fc2*", "--json").stdout)[
            "layers"
        ]
    ]
    assert names == ["fc1.weight"]


@no_gpu
def test_with_kernels_times_and_verdicts_are_shown(monkeypatch):
    monkeypatch.setattr(verification, "_verified", set())
    monkeypatch.setitem(routes.ROUTES, "unpacked", Unpacked())
    monkeypatch.setattr("tmask.nn.packing.doctor._COUNTS", (8, 16))
    arguments = (
        "doctor",
        "--shape",
        "32x64",
        "--shape",
        "33x64",
        "--tokens",
        "8",
        "--tokens",
        "24",
        "--dtype",
        "float16",
    )
    output = run(*arguments).stdout
    assert "Measured, float16, milliseconds" in output
    assert "A whole step, milliseconds" in output
    assert output.count("masked") >= 4  # what auto takes, of each count, as it is and in a graph
    assert "33x64; unpacked needs both sides in multiples of 32" in one_line(output)
    document = json.loads(run(*arguments, "--json").stdout)
    assert document["dtype"] == "float16"
    good, bad = document["layers"]
    assert good["eligible_here"]
    assert good["route"] == "unpacked"
    assert [timing["tokens"] for timing in good["timings"]] == [8, 24]
    assert [graph["tokens"] for graph in good["graphs"]] == [8, 24]
    assert all(0 < graph["dense"] < graph["sparse"] for graph in good["graphs"])
    # Unpacking on a CPU is no fast kernel, and the verdict must say so.
    assert good["verdict"] == "not worth it here: slower than dense up to 16 tokens"
    assert good["break_even_tokens"] is None
    assert all(0 < timing["speed_up"] < 1 for timing in good["timings"])
    assert "not worth it here" in output
    assert not bad["eligible_here"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--shape", "4096"), "--shape '4096': write it as OUTxIN"),
        (("--shape", "0x64"), "--shape '0x64'"),
        (("--shape", "64x64x3"), "--shape '64x64x3'"),
        (("--dtype", "fp8"), "dtype 'fp8': give one of"),
        (("--tokens", "0"), "0 is no count of tokens"),
        (("--include", "fc*"), "name the file"),
        (("none.safetensors",), "none.safetensors does not exist"),
    ],
)
def test_bad_input(arguments, text):
    assert text in one_line(run("doctor", *arguments, code=2).stderr)


def test_without_torch_it_gives_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert 'pip install "tmask[torch]"' in run("doctor", code=3).stderr

"""`tmask prune`: what it writes, how it goes on after an end, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys

import pytest
import torch

pytest.importorskip("transformers")

from tests.cli.harness import one_line, run
from tests.nn.tiny_language import save_model, text
from tmask.allocation.dense_share import choose_dense
from tmask.cli.exit_codes import Code
from tmask.cli.rows.prune_rows import kind, kinds, losses_and_sizes, read_patterns
from tmask.errors import FileFormatError
from tmask.files.masks import read_masks
from tmask.files.opening import open_weights
from tmask.nn.blockwise.pruning import MatrixPruning
from tmask.nn.methods.wanda import Wanda

MATRICES = 7  # of a Llama's block
QUICK = ("--method", "wanda", "--samples", "6", "--length", "16", "--batch", "4")

# Dies as at `kill -9` in its second block.
DYING = """
import os, signal
from tmask.cli import main
from tmask.nn.methods.wanda import Wanda

real, calls = Wanda._prune, []

def dying(self, problem, goal):
    calls.append(1)
    if len(calls) == 11:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, problem, goal)

Wanda._prune = dying
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and a text."""
    path = tmp_path_factory.mktemp("prune")
    save_model(path / "model")
    (path / "text.txt").write_text(text(400))
    return path


def command(folder, output, *options, pattern=("--pattern", "2:4")):
    texts = ("prune", folder / "model", "-o", output, "-c", folder / "text.txt", *pattern, *QUICK, *options)
    return [str(text) for text in texts]


def tensors(path):
    file = open_weights(path / "model.safetensors.index.json")
    return {name: file.read(name).values() for name in file.names}


def contents(path):
    """Of every file but the report, which tells the time."""
    files = (file for file in path.rglob("*") if file.is_file() and file.parent.name != "tmask")
    found = {str(file.relative_to(path)): file.read_bytes() for file in files}
    masks = read_masks(path / "tmask/masks.safetensors")  # which tell it too
    return found | {name: (record.mask.tobytes(), record.weights_sha256) for name, record in masks.items()}


@pytest.fixture(scope="module")
def whole(folder):
    """The output of a run that nothing stops."""
    run(*command(folder, folder / "whole"))
    return folder / "whole"


def test_every_layer_is_pruned_and_said_of_what_kind(folder, tmp_path):
    document = json.loads(run(*command(folder, tmp_path / "out", "--json")).stdout)
    assert [row["layers"] for row in document["kinds"]] == [
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
        "all",
    ]
    assert [row["count"] for row in document["kinds"]] == [3] * MATRICES + [3 * MATRICES]
    assert document["kinds"][-1]["density"] == 0.5
    assert document["kinds"][-1]["optimality_gap"] == 0
    assert set(document["skipped"].values()) == {"an embedding", "in no block"}
    before, after = tensors(folder / "model"), tensors(tmp_path / "out")
    for row in document["matrices"]:
        assert (after[row["name"]] != 0).mean() == 0.5
    for name in before.keys() - {row["name"] for row in document["matrices"]}:
        assert (before[name] == after[name]).all()
    assert sorted(file.name for file in (tmp_path / "out/tmask").iterdir()) == [
        "masks.safetensors",
        "report.json",
        "report.svg",
    ]
    assert [block["name"] for block in document["blocks"]] == [f"model.layers.{k}" for k in range(3)]


def test_the_table_says_where_things_lie(folder, tmp_path):
    result = run(*command(folder, tmp_path / "out"))
    assert f"Pruned by wanda, written to {tmp_path / 'out'}" in result.stdout
    assert "mlp.down_proj" in result.stdout
    assert "model.layers.2 " in result.stdout
    assert "all" in result.stdout
    assert f"masks and report are in {tmp_path / 'out' / 'tmask'}" in one_line(result.stderr)


def test_a_killed_run_goes_on_to_the_same_bytes(folder, whole, tmp_path):
    dying = [sys.executable, "-c", DYING, *command(folder, tmp_path / "out")]
    assert subprocess.run(dying, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    result = run(*command(folder, tmp_path / "out"))
    assert f"{tmp_path / 'out.partial'} is there from an earlier run" in one_line(result.stderr)
    assert contents(tmp_path / "out") == contents(whole)
    assert os.listdir(tmp_path) == ["out"]


def test_interrupted_it_says_what_it_leaves(folder, whole, tmp_path, monkeypatch):
    real, calls = Wanda._prune, []

    def interrupted(self, problem, goal):
        calls.append(1)
        if len(calls) == 2 * MATRICES + 3:
            raise KeyboardInterrupt
        return real(self, problem, goal)

    monkeypatch.setattr(Wanda, "_prune", interrupted)
    stderr = one_line(run(*command(folder, tmp_path / "out"), code=Code.INTERRUPTED).stderr)
    assert f"2 of 3 blocks are finished and kept in {tmp_path / 'out.partial'}; the same command goes on" in stderr
    # Of other settings it is another run.
    other = run(*command(folder, tmp_path / "out", "--set", "damping=0.5"), code=Code.OUTPUT)
    assert "unfinished run with other settings" in one_line(other.stderr)
    assert "goes on from there" not in one_line(other.stderr)
    calls[:] = [1] * 10**3
    run(*command(folder, tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(whole)


def test_layers_that_stay_dense(folder, tmp_path):
    options = ("--exclude", "model.layers.*.self_attn.*", "--keep-dense", "0.mlp.up_proj", "--keep-dense", "down_proj")
    document = json.loads(run(*command(folder, tmp_path / "out", *options, "--json")).stdout)
    assert {row["name"] for row in document["matrices"]} == {
        "model.layers.0.mlp.gate_proj.weight",
        *(f"model.layers.{k}.mlp.{name}_proj.weight" for k in (1, 2) for name in ("gate", "up")),
    }
    assert list(document["skipped"].values()).count("excluded") == 3 * 4 + 1 + 3


def test_patterns_by_layer(folder, tmp_path):
    chosen = {"model.layers.0.mlp.up_proj.weight": "1:4", "model.layers.2.mlp.down_proj.weight": "4:8"}
    rows = [{"layer": name, "pattern": pattern} for name, pattern in (chosen | {"lm_head.weight": "2:4"}).items()]
    (tmp_path / "rows.json").write_text(json.dumps({"layers": rows}))
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["layer", "pattern"])
        writer.writeheader()
        writer.writerows(rows)
    assert read_patterns(tmp_path / "rows.json") == read_patterns(tmp_path / "rows.csv")
    pattern = ("--patterns", tmp_path / "rows.csv")
    document = json.loads(run(*command(folder, tmp_path / "out", "--json", pattern=pattern)).stdout)
    assert {row["name"]: row["density"] for row in document["matrices"]} == dict(zip(chosen, (0.25, 0.5), strict=True))
    assert document["unused_patterns"] == ["lm_head.weight"]


def test_patterns_that_allocate_chose(folder, tmp_path):
    weights = folder / "model/model.safetensors.index.json"
    chosen = run("allocate", str(weights), "--density", "0.5", "--include", "model.layers.*", "--json").stdout
    (tmp_path / "rows.json").write_text(chosen)
    pattern = ("--patterns", tmp_path / "rows.json")
    document = json.loads(run(*command(folder, tmp_path / "out", "--json", pattern=pattern)).stdout)
    expected = {row["layer"]: row["density"] for row in json.loads(chosen)["layers"]}
    assert len(set(expected.values())) > 1
    assert {row["name"]: row["density"] for row in document["matrices"]} == expected
    assert document["unused_patterns"] == []


def test_a_share_stays_dense_where_errors_are_largest(folder, whole, tmp_path):
    out = tmp_path / "out"
    document = json.loads(run(*command(folder, out, "--dense-share", "0.3", "--json")).stdout)
    dense = {name for name, reason in document["skipped"].items() if reason == "excluded"}
    sizes = {
        name: array.size for name, array in tensors(out).items() if name.startswith("model.layers") and array.ndim > 1
    }
    assert 0 < sum(sizes[name] for name in dense) <= 0.3 * sum(sizes.values())
    run(*command(folder, tmp_path / "measured", "--goal", "layer", "--at-once"))
    rows = json.loads((tmp_path / "measured/tmask/report.json").read_text())["matrices"]
    errors = {row["name"]: row["error"] for row in rows}
    # No weight of the same size or less that was pruned could take the place of a dense one.
    for kept in dense:
        assert all(errors[kept] >= errors[name] for name in errors.keys() - dense if sizes[name] <= sizes[kept])
    assert sorted(os.listdir(tmp_path)) == ["measured", "out"]


@pytest.mark.parametrize("masks", ["patterns", "density"])
def test_a_share_stays_dense_of_weights_with_their_own_masks(folder, tmp_path, masks):
    """Each is measured under its own pattern: a light one of those left at 1:4 costs more than most at 3:4."""
    names = [f"model.layers.{k}.mlp.{name}_proj.weight" for k in range(3) for name in ("gate", "up", "down")]
    patterns = {name: "1:4" if "layers.1" in name else "3:4" for name in names}
    rows = [{"layer": name, "pattern": pattern} for name, pattern in patterns.items()]
    (tmp_path / "rows.json").write_text(json.dumps({"layers": rows}))
    pattern = ("--patterns", tmp_path / "rows.json") if masks == "patterns" else ("--density", "0.25")
    out = tmp_path / "out"
    options = ("--dense-share", "0.34", "--exclude", "*.self_attn.*", "--json")
    document = json.loads(run(*command(folder, out, *options, pattern=pattern)).stdout)
    pruned = {row["name"]: row["density"] for row in document["matrices"]}
    dense = {*names} - pruned.keys()
    assert document["unused_patterns"] == []
    assert {document["skipped"][name] for name in dense} == {"excluded"}
    assert 0 < len(dense) <= 0.34 * len(names)  # all are of one size
    if masks == "patterns":
        assert dense == {name for name in names if "layers.1" in name}
        assert set(pruned.values()) == {0.75}
    quick = ("--exclude", "*.self_attn.*", "--goal", "layer", "--at-once")
    run(*command(folder, tmp_path / "measured", *quick, pattern=pattern))
    measured = json.loads((tmp_path / "measured/tmask/report.json").read_text())["matrices"]
    errors = {row["name"]: row["error"] for row in measured}
    assert min(errors[name] for name in dense) >= max(errors[name] for name in pruned)


@pytest.mark.parametrize(("share", "expected"), [(0.5, ["b"]), (0.25, ["c"]), (0.2, []), (0.75, ["b", "c"])])
def test_what_stays_dense_is_the_best_that_fits(share, expected):
    rows = [
        MatrixPruning(name, (4, cols), 0.5, 0.9, 0.0, "s", error, 9, 1.0)
        for name, cols, error in (("a", 4, 0.1), ("b[0]", 4, 0.3), ("b[1]", 4, 0.3), ("c", 4, 0.4))
    ]
    assert choose_dense(*losses_and_sizes(rows), share) == expected


@pytest.mark.parametrize("content", ['{"layers": [{"layer": "a"}]}', "a,b\n1,2\n", "", '{"layers": 3}', "{"])
def test_files_that_hold_no_patterns(tmp_path, content):
    (tmp_path / "rows").write_text(content)
    with pytest.raises(FileFormatError, match=r"patterns|tmask allocate"):
        read_patterns(tmp_path / "rows")


def test_choices_reach_the_pruning(folder, whole, tmp_path):
    """Each gives other weights than the defaults, and none is without effect."""
    choices = [
        ("--goal", "layer"),
        ("--at-once",),
        ("--tune", "1"),
        ("--block-refit",),
        ("--plain",),
        ("--solver", "greedy-keep"),
        ("--set", "refit=false"),
        ("--seed", "1"),
        ("--method", "magnitude"),
        ("--by-document", "--samples", "1"),
    ]
    known = [tensors(whole)]
    for index, options in enumerate(choices):
        run(*command(folder, tmp_path / str(index), *options))
        known.append(tensors(tmp_path / str(index)))
    name = "model.layers.2.mlp.down_proj.weight"
    assert len({found[name].tobytes() for found in known}) == len(choices) + 1


def test_little_memory_and_other_types_of_numbers(folder, whole, tmp_path):
    run(*command(folder, tmp_path / "files", "--memory", "0"))
    assert contents(tmp_path / "files") == contents(whole)
    run(*command(folder, tmp_path / "half", "--dtype", "bfloat16"))
    assert contents(tmp_path / "half") != contents(whole)


def test_unstructured(folder, tmp_path):
    pattern = ("--density", "0.25")
    document = json.loads(run(*command(folder, tmp_path / "out", "--json", pattern=pattern)).stdout)
    assert document["kinds"][-1]["density"] == pytest.approx(0.25, abs=0.01)


BAD = [
    (("--method", "best"), "no method is named 'best'; there are: magnitude, wanda"),
    (("--set", "penalty=2"), "method 'wanda' has no setting 'penalty'"),
    (("--set", "damping=much"), "give a number"),
    (("--set", "damping"), "write it as name=value"),
    (("--method", "alps", "--set", "growth=1.3,1.2,x"), "give a number"),
    (("--plain", "--solver", "greedy-keep"), "found by sorting"),
    (("--samples", "26"), "400 tokens, but 26 samples of 16 need 416"),
    (("--length", "65", "--samples", "1"), "reads at most 64 tokens at once"),
    (("--density", "0.5"), "give one of --pattern"),
    (("--goal", "best"), "choose dense or layer"),
    (("--exclude", "nothing*"), "--exclude 'nothing*' fits no weight"),
    (("--keep-dense", "mlp.side_proj"), "--keep-dense 'mlp.side_proj' fits no weight"),
    (("--dense-share", "1"), "must be above 0 and below 1"),
    (("--dense-share", "0.5", "--pattern", "4:4"), "keep every weight already"),
    (("--blocks", "model.towers"), "'model.towers' is no list of modules"),
    (("--dtype", "int4"), "choose one of float32"),
    (("--solver", "nobody"), "nobody"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=lambda value: " ".join(value) if value is tuple else None)
def test_bad_input_leaves_nothing(folder, tmp_path, options, message):
    assert message in one_line(run(*command(folder, tmp_path / "out", *options), code=Code.BAD_INPUT).stderr)
    assert not list(tmp_path.iterdir())


def test_bad_directories(folder, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "text.txt").write_text(text(400))
    stderr = run(*command(tmp_path, tmp_path / "out"), code=Code.BAD_INPUT).stderr
    assert "has no config.json" in one_line(stderr)
    save_model(tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    quantised = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (tmp_path / "model/config.json").write_text(json.dumps(config | quantised))
    assert "quantised" in one_line(run(*command(tmp_path, tmp_path / "out"), code=Code.BAD_INPUT).stderr)


def test_an_output_that_exists_stays(folder, tmp_path):
    (tmp_path / "out").mkdir()
    assert "exists already" in one_line(run(*command(folder, tmp_path / "out"), code=Code.OUTPUT).stderr)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.3.mlp.down_proj.weight", "mlp.down_proj"),
        ("transformer.h.11.attn.c_attn.weight", "attn.c_attn"),
        ("model.layers.0.mlp.experts.7.up_proj.weight", "mlp.experts.*.up_proj"),
        ("model.layers.0.mlp.experts.gate_up_proj[12]", "mlp.experts.gate_up_proj[*]"),
        ("lm_head.weight", "lm_head"),
    ],
)
def test_kinds_of_names(name, expected):
    assert kind(name) == expected


def test_kinds_weigh_by_size():
    rows = [
        MatrixPruning("l.0.a.weight", (2, 2), 0.5, 0.9, 0.0, "s", 0.1, 9, 1.0),
        MatrixPruning("l.1.a.weight", (4, 8), 0.25, 0.7, None, "s", float("nan"), 9, 2.0),
    ]
    a, total = kinds(rows)
    assert (a["layers"], a["count"], a["weights"], a["seconds"]) == ("a", 2, 36, 3.0)
    assert a["density"] == pytest.approx((4 * 0.5 + 32 * 0.25) / 36)
    assert a["retained"] == pytest.approx(0.8)
    assert (a["error"], a["optimality_gap"]) == (0.1, None)
    assert total == a | {"layers": "all"}


def test_the_pruned_model_loads(whole):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32)
    assert all(float((layer.mlp.up_proj.weight == 0).float().mean()) == 0.5 for layer in model.model.layers)

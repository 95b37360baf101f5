"""The benchmarks of pruning, on a network of random weights and images of 8 x 8."""

from __future__ import annotations

import csv
import statistics

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("tabulate")

from bench import adaprune, adaprune_report, cifar, diversity_accuracy, diversity_accuracy_report
from bench.resnet20 import ResNet20
from tests.bench.pages import unpadded
from tmask.errors import FileFormatError, InvalidProblemError

MODELS = "dense,transposable 4:8 auto,plain from unstructured 40%"
STAGES = "one-shot,batch-norm,independent,fine-tuned"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder as the benchmark reads it."""
    folder = tmp_path_factory.mktemp("data")
    torch.manual_seed(0)
    model = ResNet20()
    for tensor in model.parameters():
        if tensor.ndim > 1:  # of one scale, so that one threshold for all leaves something of each layer
            torch.nn.init.normal_(tensor, 0, 0.1)
    for name, tensor in model.named_buffers():
        if "running" in name:
            tensor.uniform_(0.5, 1.5)
    save_file(model.state_dict(), folder / "resnet20_cifar10.safetensors")
    rng = np.random.default_rng(0)
    arrays = {f"{part}_x": rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8) for part in ("train", "test")}
    arrays |= {f"{part}_y": rng.integers(0, 10, 60) for part in ("train", "test")}
    np.savez(folder / "cifar10_small.npz", **arrays)
    return folder


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """The rows of two seeds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        out = tmp_path_factory.mktemp("rows") / "adaprune.csv"
        adaprune.main(data, out, models=MODELS, stages=STAGES, seeds="0,1")
    return out


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_each_model_stage_and_seed_that_makes_sense(finished):
    found = {(row["model"], row["stage"], row["seed"]) for row in rows_of(finished)}
    pruned, converted = "transposable 4:8 auto", "plain from unstructured 40%"
    on_data = [("dense", stage) for stage in ("batch-norm", "fine-tuned")]
    on_data += [
        (model, stage) for model in (pruned, converted) for stage in ("batch-norm", "independent", "fine-tuned")
    ]
    expected = {(model, stage, seed) for model, stage in on_data for seed in "01"}
    expected |= {(model, "one-shot", "0") for model in ("dense", pruned)}  # sees no images
    assert found == expected
    for row in rows_of(finished):
        assert 0 <= float(row["top1"]) <= 1
        if row["model"] == pruned:
            assert float(row["nonzero"]) == 0.5
            assert float(row["error_mean"]) <= float(row["error_masked_mean"])
            assert float(row["gap_mean"]) < 1e-9
        elif row["model"] == converted:
            assert all(pattern.endswith(":8") for pattern in row["patterns"].split())


def test_rows_that_are_there_are_not_run_again(finished, data, tmp_path, monkeypatch):
    out = tmp_path / "adaprune.csv"
    lines = finished.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:-1]))
    run = []
    prune = adaprune.Seed.prune
    monkeypatch.setattr(adaprune.Seed, "prune", lambda seed, *job: run.append(job) or prune(seed, *job))
    adaprune.main(data, out, models=MODELS, stages=STAGES, seeds="0,1")
    last = rows_of(finished)[-1]
    assert (run[0][0].name, run[0][1]) == (last["model"], last["stage"])
    kept = ("model", "stage", "seed", "top1", "nonzero", "error_mean")
    old, new = ([[row[key] for key in kept] for row in rows_of(path)] for path in (finished, out))
    assert new == old


def test_everything_starts_from_the_model_as_it_was_trained(data, monkeypatch):
    """Its statistics too; the seed's images are read for the pruned models alone."""
    loaded = cifar.load(data)
    before = {name: tensor.clone() for name, tensor in loaded.dense.state_dict().items()}
    seen = []
    monkeypatch.setattr(adaprune, "adaprune", lambda model, *rest, **named: seen.append((model.state_dict(), named)))
    seed = adaprune.Seed(loaded, 0)
    for stage in ("one-shot", "batch-norm", "independent", "sequential", "adam", "wanda", "obs"):
        seed.prune(adaprune.Model("transposable", "4:8", "auto"), stage)
    assert len(seen) == 7
    for state, named in seen:
        assert all(torch.equal(tensor, before[name]) for name, tensor in state.items())
        assert named["grams"] is (None if named["sequential"] else seed.grams)
    scores = [named["score"] for _, named in seen]
    assert scores == ["magnitude"] * 5 + ["wanda", "obs"]
    dense, _ = seed.prune(adaprune.Model("dense"), "one-shot")
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())
    new, _ = seed.prune(adaprune.Model("dense"), "batch-norm")
    assert not torch.equal(new.bn1.running_mean, before["bn1.running_mean"])
    refitted, report = seed.prune(adaprune.Model("dense"), "sequential")
    assert all(row.density == 1 for row in report.layers)
    assert not torch.equal(refitted.layer3[0].conv1.weight, before["layer3.0.conv1.weight"])


def test_a_fine_tuned_model_keeps_its_masks_and_leaves_the_one_before_alone(data):
    seed = adaprune.Seed(cifar.load(data), 0)
    model = adaprune.Model("plain", "4:8")
    before, report = seed.prune(model, "independent")
    weights = {name: cifar.weight_of(before, name).clone() for name in report.masks}
    tuned, _ = seed.prune(model, "fine-tuned")
    for name, mask in report.masks.items():
        assert torch.equal(cifar.weight_of(before, name), weights[name])
        assert not torch.equal(cifar.weight_of(tuned, name), weights[name])
        assert not cifar.weight_of(tuned, name)[~mask].any()


def test_the_report(finished, tmp_path):
    adaprune_report.main(finished)
    text = finished.with_suffix(".md").read_text()
    rows = [
        row for row in rows_of(finished) if (row["model"], row["stage"]) == ("transposable 4:8 auto", "independent")
    ]
    values = [100 * float(row["top1"]) for row in rows]
    cell = f"{statistics.fmean(values):.2f} ({min(values):.2f}-{max(values):.2f}, 2)"
    (line,) = [line for line in unpadded(text).splitlines() if line.startswith("| transposable 4:8 | 50.0% |")]
    assert cell in line
    with pytest.raises(FileFormatError, match="has no rows"):
        adaprune_report.main(tmp_path / "none.csv")


def test_stages_that_do_not_exist(data, tmp_path):
    with pytest.raises(InvalidProblemError, match="no stage 'twice'; there are: one-shot"):
        adaprune.main(data, tmp_path / "rows.csv", stages="one-shot,twice", models="*", seeds="0")


def test_diversity_and_accuracy(data, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    constraints = (("unstructured", "1:2"), ("plain", "2:4"), ("transposable", "2:4"), ("structured", "2:4"))
    monkeypatch.setattr(diversity_accuracy, "CONSTRAINTS", constraints)
    out = tmp_path / "diversity_accuracy.csv"
    diversity_accuracy.main(data, out, seeds="0")
    rows = rows_of(out)
    assert {(row["constraint"], row["pattern"], row["stage"]) for row in rows} == {
        (*constraint, stage) for constraint in constraints for stage in ("before", "after")
    }
    bits = {row["constraint"]: float(row["bits_per_weight"]) for row in rows}
    assert sorted(bits, key=bits.get) == ["structured", "transposable", "plain", "unstructured"]
    retained = {row["constraint"]: float(row["retained_mean"]) for row in rows}
    assert sorted(retained, key=retained.get) == ["structured", "transposable", "plain", "unstructured"]
    for name in bits:
        before, after = (float(row["error_mean"]) for row in rows if row["constraint"] == name)
        assert after < before
    assert out.with_suffix(".png").stat().st_size > 5000
    means = diversity_accuracy_report.averages(rows)
    assert f"before AdaPrune: {diversity_accuracy_report.correlation(means, 'before'):.3f}" in capsys.readouterr().out
    diversity_accuracy.main(data, out, seeds="0")
    assert rows_of(out) == rows

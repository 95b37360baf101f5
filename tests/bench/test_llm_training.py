"""The benchmark of training on with frozen masks, on a tiny model of random weights."""

from __future__ import annotations

import csv

import pytest
import torch

pytest.importorskip("transformers")

from bench import llm_training
from tests.nn.tiny_language import save_model, text
from tmask.errors import InvalidProblemError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and a text."""
    path = tmp_path_factory.mktemp("llm")
    save_model(path / "tiny")
    (path / "text.txt").write_text("\n".join(text(20, 0) for _ in range(100)))
    return path


@pytest.fixture
def seen(monkeypatch):
    """Every model as it is after training; rows are measured in this process."""
    models = []
    real = llm_training.train

    def train(model, tokens, plan):
        steps = real(model, tokens, plan)
        models.append({name: p.detach().clone() for name, p in model.named_parameters() if p.ndim == 2})
        return steps

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(llm_training, "train", train)
    monkeypatch.setattr(llm_training, "in_a_process", lambda function, *arguments: function(*arguments))
    return models


def bench(folder, out, **options):
    defaults = {"method": "wanda", "targets": "dense,transposable 2:4", "minutes": 0.02, "learning_rate": 1e-2}
    sizes = {"batch": 2, "length": 16, "seed": 0, "windows": 3, "threads": 1}
    llm_training.main(folder / "text.txt", folder / "tiny", out, **{**defaults, **sizes, **options})
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_each_target_in_which_masks_hold(folder, seen, tmp_path):
    dense, masked = bench(folder, tmp_path / "out.csv")
    assert (dense["target"], dense["method"]) == ("dense", "")
    assert (masked["target"], masked["method"]) == ("transposable 2:4", "wanda")
    for row in (dense, masked):
        assert int(row["steps"]) > 1
        assert float(row["perplexity"]) != float(row["perplexity_before"])
    assert float(masked["perplexity_before"]) != float(dense["perplexity_before"])


def test_training_learns_the_text(folder, seen, tmp_path):
    """The same sentence again and again, of which random weights know nothing."""
    (row,) = bench(folder, tmp_path / "out.csv", targets="dense", minutes=0.05)
    assert float(row["perplexity"]) < 0.9 * float(row["perplexity_before"])


def test_what_is_there_is_kept_and_what_cannot_be_meant_refused(folder, seen, tmp_path):
    rows = bench(folder, tmp_path / "out.csv", targets="dense")
    assert bench(folder, tmp_path / "out.csv", targets="dense") == rows
    assert len(seen) == 1
    for options in ({"minutes": 0.0}, {"targets": "plain 2:4"}):
        with pytest.raises(InvalidProblemError):
            bench(folder, tmp_path / "out.csv", **options)


def test_masks_are_frozen_while_weights_move(folder, seen, tmp_path, monkeypatch):
    """What the forward pass multiplies with has the zeros of the pruned model, and other values."""
    multiplied = []
    real = llm_training.perplexity_of

    def judged(model, *arguments):
        layer = model.get_submodule("model.layers.0.mlp.up_proj")
        multiplied.append(layer.weight.detach().clone())
        return real(model, *arguments)

    monkeypatch.setattr(llm_training, "perplexity_of", judged)
    bench(folder, tmp_path / "out.csv", targets="transposable 2:4")
    before, after = multiplied
    assert torch.equal(before == 0, after == 0)
    assert float((before == 0).float().mean()) == 0.5
    assert not torch.equal(before, after)

"""`tmask evaluate`: what it measures, side by side, and what it refuses."""

from __future__ import annotations

import json
import math

import pytest
import torch

pytest.importorskip("transformers")

from tests.cli.harness import one_line, run
from tests.nn.tiny_language import WORDS, save_model, text
from tmask.cli import language_models
from tmask.cli.exit_codes import Code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models of one tokenizer, one of another, and a text."""
    path = tmp_path_factory.mktemp("evaluate")
    save_model(path / "one")
    save_model(path / "two", seed=1, initializer_range=1.0)
    save_model(path / "other", words=WORDS[::-1])
    (path / "text.txt").write_text(text(203))
    return path


def evaluate(folder, *models, code=0, options=()):
    return run(
        "evaluate", *(folder / model for model in models), "--text", folder / "text.txt", "--length", 20, *options,
        code=code,
    )  # fmt: skip


def test_models_side_by_side(folder):
    document = json.loads(evaluate(folder, "one", "two", options=["--json"]).stdout)
    one, two = document["models"]
    assert document["how"] == "disjoint windows of 20 tokens"
    assert document["tokens"] == 203
    assert (one["windows"], one["tokens"], one["ratio"], one["zeros"]) == (10, 190, 1, 0)
    assert one["perplexity"] == pytest.approx(len(WORDS), rel=0.1)  # a model of small weights knows nothing
    assert two["ratio"] == pytest.approx(two["perplexity"] / one["perplexity"])
    assert two["ratio"] > 1.5


def test_sliding_windows_drawn_by_a_seed(folder):
    options = ["--stride", 5, "--windows", 4, "--json"]
    documents = [json.loads(evaluate(folder, "two", options=[*options, "--seed", seed]).stdout) for seed in (0, 0, 1)]
    first, same, other = (document["models"][0] for document in documents)
    assert documents[0]["how"] == "sliding windows of 20 tokens, stride 5"
    assert first["windows"] == 4
    assert first == same
    assert first["perplexity"] != other["perplexity"]


def test_the_table_says_how(folder):
    output = evaluate(folder, "one", "two").stdout
    assert "Perplexity on text.txt, disjoint windows of 20 tokens" in output
    assert "1.000" in output
    assert "zeros" in output


def test_perplexity_is_what_transformers_says(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder / "two", dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(folder / "two")(text(203), return_tensors="pt")["input_ids"][0]
    windows = ids[:200].view(10, 20)
    with torch.no_grad():
        mean = float(model(input_ids=windows, labels=windows).loss)
    found = json.loads(evaluate(folder, "two", options=["--json"]).stdout)["models"][0]
    assert found["perplexity"] == pytest.approx(math.exp(mean), rel=1e-4)


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        (["one", "nowhere"], [], "nowhere has no config.json"),
        (["one", "other"], [], "cuts"),
        (["one"], ["--windows", 11], "text.txt: 203 tokens, but 11 windows of 20 need 220"),
        (["one"], ["--length", 65], "reads at most 64 tokens at once, not 65"),
        (["one"], ["--dtype", "int8"], "choose one of float32"),
        (["one"], ["--device", "cuda:99"], "cannot be used here"),
        (["one"], ["--stride", 21], "stride of 1"),
    ],
)
def test_bad_input(folder, models, options, message):
    assert message in one_line(evaluate(folder, *models, options=options, code=Code.BAD_INPUT).stderr)


def test_a_model_without_some_of_its_weights_is_refused(folder, tmp_path):
    save_model(tmp_path / "one")
    config = json.loads((tmp_path / "one/config.json").read_text())
    (tmp_path / "one/config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    (tmp_path / "text.txt").write_text(text(50))
    stderr = one_line(evaluate(tmp_path, "one", code=Code.BAD_INPUT).stderr)
    assert "holds no tensor for model.layers.3." in stderr


def test_without_transformers_the_extra_is_named(folder, monkeypatch):
    real = language_models.importlib.util.find_spec
    monkeypatch.setattr(
        language_models.importlib.util, "find_spec", lambda name: None if name == "transformers" else real(name)
    )
    stderr = evaluate(folder, "one", code=Code.SOLVER).stderr
    assert 'needs transformers; run: pip install "tmask[transformers]"' in one_line(stderr)

"""Text as samples: what is drawn, from which files, and what is refused; and perplexity against its definition."""

from __future__ import annotations

import json
import math

import pytest
import torch

pytest.importorskip("transformers")

from tests.nn.tiny_language import WORDS, save_model, text, tokenizer
from tmask.errors import FileFormatError, InvalidProblemError
from tmask.nn.calibration.language_models import load_language_model, share_of_zeros
from tmask.nn.calibration.perplexity import choose_windows, perplexity
from tmask.nn.calibration.text import calibration_text, draw, read_documents, tokenise

END = 1  # of `tokenizer`


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


def ids(words):
    return [2 + WORDS.index(word) for word in words.split()]


def rows(batches):
    return torch.cat([batch["input_ids"] for batch in batches])


def test_packed_samples_are_windows_of_the_text_and_do_not_overlap(model, tmp_path):
    (tmp_path / "a.txt").write_text(text(107))
    batches = calibration_text(tmp_path / "a.txt", model, samples=10, length=10, seed=3, batch=4)
    assert [tuple(batch["input_ids"].shape) for batch in batches] == [(4, 10), (4, 10), (2, 10)]
    windows = torch.tensor(ids(text(107))[:100]).view(10, 10)
    found = rows(batches)
    assert {tuple(row) for row in found.tolist()} == {tuple(row) for row in windows.tolist()}
    assert not torch.equal(found, windows)  # drawn, not read from the beginning


def test_the_seed_decides(model, tmp_path):
    (tmp_path / "a.txt").write_text(text(400))
    one, same, other = (
        rows(calibration_text(tmp_path / "a.txt", model, samples=5, length=8, seed=seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_documents_are_joined_with_the_token_that_ends_one():
    first, second = tokenise(["w1 w2", "w3"], tokenizer())
    assert [*first.tolist(), *second.tolist()] == [*ids("w1 w2"), END, *ids("w3"), END]
    assert [part.tolist() for part in tokenise(["w1", "w3"], tokenizer(end=False))] == [ids("w1"), ids("w3")]
    assert [part.tolist() for part in tokenise(["w1"], tokenizer())] == [ids("w1")]  # a file is no series of documents


def test_json_lines(model, tmp_path):
    documents = [text(12, seed) for seed in range(4)]
    lines = [json.dumps({"body": document, "id": 1}, ensure_ascii=False) for document in documents]
    # A separator that splitlines() would split at, and that JSON allows inside a text.
    lines[1] = json.dumps({"body": documents[1].replace(" ", "\u2028", 1)}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n\n" + json.dumps({"body": " "}) + "\n", encoding="utf-8")
    assert len(read_documents(tmp_path / "a.jsonl", "body")) == 4
    found = rows(calibration_text(tmp_path / "a.jsonl", model, samples=4, length=9, packing="documents", field="body"))
    assert sorted(found.tolist()) == sorted(ids(document)[:9] for document in documents)


def test_documents_that_are_too_short_are_left_out():
    tokens = [torch.arange(length) for length in (3, 9, 5, 12)]
    found = rows(draw(tokens, samples=2, length=8, packing="documents"))
    assert found.tolist() == [list(range(8))] * 2
    with pytest.raises(InvalidProblemError, match=r"2 of 4 documents have 8 tokens or more \(the longest has 12\)"):
        draw(tokens, samples=3, length=8, packing="documents")


def test_too_little_text_says_how_much_is_needed(model, tmp_path):
    (tmp_path / "a.txt").write_text(text(1079))
    with pytest.raises(InvalidProblemError, match=r"a\.txt: 1,079 tokens, but 40 samples of 27 need 1,080"):
        calibration_text(tmp_path / "a.txt", model, samples=40, length=27)
    calibration_text(tmp_path / "a.txt", model, samples=39, length=27)
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(InvalidProblemError, match="0 tokens"):
        calibration_text(tmp_path / "empty.txt", model)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", b'\n{"body": "a", "id": 3}\n', r"line 2: no text 'text'; it has 'body', 'id'"),
        ("a.jsonl", b'["a"]\n', r"line 1: no text 'text'; it is no object"),
        ("a.jsonl", b'{"text": 7}\n', r"line 1: no text 'text'"),
        ("a.txt", b"a\xff\xfeb", r"a\.txt is not text in UTF-8"),
    ],
)
def test_files_that_are_no_text(model, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        calibration_text(tmp_path / name, model)


def test_what_is_not_there(model, tmp_path):
    with pytest.raises(FileFormatError, match=r"cannot read .*no\.txt"):
        calibration_text(tmp_path / "no.txt", model)
    (tmp_path / "a.txt").write_text(text(99))
    with pytest.raises(FileFormatError, match="is no directory"):
        calibration_text(tmp_path / "a.txt", tmp_path / "nowhere")
    with pytest.raises(FileFormatError, match="no tokenizer that transformers can load"):
        calibration_text(tmp_path / "a.txt", tmp_path)


@pytest.mark.parametrize("setting", [{"samples": 0}, {"length": True}, {"batch": 2.5}, {"packing": "loose"}])
def test_settings_that_cannot_be_meant(model, tmp_path, setting):
    (tmp_path / "a.txt").write_text(text(999))
    with pytest.raises(InvalidProblemError):
        calibration_text(tmp_path / "a.txt", model, **{"samples": 2, "length": 8} | setting)


def loss(model, tokens, start, length, first):
    """Minus the log-likelihoods of a window's tokens from its token `first` on, one by one."""
    window = tokens[start : start + length]
    with torch.no_grad():
        log = model(input_ids=window[None]).logits[0].double().log_softmax(-1)
    return [-float(log[k - 1, window[k]]) for k in range(first, length)]


def test_disjoint_windows(model):
    loaded, tokens = load_language_model(model, torch.float32), torch.tensor(ids(text(35)))
    found = perplexity(loaded, tokens, choose_windows(35, 10))
    losses = [value for start in (0, 10, 20) for value in loss(loaded, tokens, start, 10, 1)]
    assert found.value == pytest.approx(math.exp(sum(losses) / 27), rel=1e-5)
    assert (found.windows, found.tokens, found.how) == (3, 27, "disjoint windows of 10 tokens")


def test_sliding_windows_judge_each_token_once(model):
    loaded, tokens = load_language_model(model, torch.float32), torch.tensor(ids(text(20)))
    found = perplexity(loaded, tokens, choose_windows(20, 10, 4))
    losses = [*loss(loaded, tokens, 0, 10, 1), *loss(loaded, tokens, 4, 10, 6), *loss(loaded, tokens, 8, 10, 6)]
    assert found.value == pytest.approx(math.exp(sum(losses) / 17), rel=1e-5)
    assert (found.windows, found.tokens, found.how) == (3, 17, "sliding windows of 10 tokens, stride 4")


def test_windows_are_drawn_by_the_seed_and_lie_in_the_text():
    one, same, other = (choose_windows(1003, 10, count=20, seed=seed) for seed in (0, 0, 1))
    assert one == same != other
    assert len(set(one.starts)) == 20
    assert all(start % 10 == 0 and start + 10 <= 1003 for start in one.starts)


def test_text_too_short_for_windows():
    with pytest.raises(InvalidProblemError, match="39 tokens, but 4 windows of 10 need 40"):
        choose_windows(39, 10, count=4)
    with pytest.raises(InvalidProblemError, match="27 tokens, but 7 windows of 10 need 28"):
        choose_windows(27, 10, 3, count=7)
    assert len(choose_windows(28, 10, 3, count=7).starts) == 7
    with pytest.raises(InvalidProblemError, match="9 tokens, but 1 windows"):
        choose_windows(9, 10)
    with pytest.raises(InvalidProblemError, match="stride of 1"):
        choose_windows(90, 10, 11)


def test_logits_that_are_not_finite_are_refused(model):
    loaded, tokens = load_language_model(model, torch.float32), torch.tensor(ids("w1 " * 20))
    with torch.no_grad():
        loaded.lm_head.weight[5] = float("nan")  # of a token that the text does not have
    with pytest.raises(InvalidProblemError, match=r"NaN or infinite logits in window 0 \(tokens 0 to 10\)"):
        perplexity(loaded, tokens, choose_windows(20, 10))


def test_zeros_are_counted_in_matrices_alone(model):
    loaded = load_language_model(model, torch.float32)
    assert share_of_zeros(loaded) == 0
    with torch.no_grad():
        loaded.model.embed_tokens.weight.zero_()
        loaded.lm_head.weight.zero_()
        assert share_of_zeros(loaded) == 0
        for layer in loaded.model.layers:
            layer.mlp.down_proj.weight.zero_()
    matrices = [p for name, p in loaded.model.layers.named_parameters() if p.ndim == 2]
    assert share_of_zeros(loaded) == pytest.approx(3 * 16 * 32 / sum(p.numel() for p in matrices))

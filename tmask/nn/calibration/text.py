"""Text as token ids: read from a file, tokenised as a model's own tokenizer does, cut into samples of one length."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tmask.errors import FileFormatError, InvalidProblemError

Packing = Literal["packed", "documents"]
Batch = dict[str, Tensor]

_JSON_LINES = (".jsonl", ".ndjson", ".json")


def calibration_text(
    path: str | Path,
    model: str | Path,
    *,
    samples: int = 32,
    length: int = 512,
    seed: int = 0,
    batch: int = 8,
    packing: Packing = "packed",
    field: str = "text",
) -> list[Batch]:
    """Samples of a text file for a language model, as batches {"input_ids": (b, length)}.

    Args:
        path: a text file, which is one document; or JSON lines (.jsonl, .ndjson, .json) with a document each.
        model: directory of a Hugging Face model, for its tokenizer.
        samples: drawn, with `length` tokens each.
        seed: of the draw.
        batch: samples in a batch, fewer in the last.
        packing: "packed": documents are joined, and samples drawn that do not overlap; "documents": one is the
            beginning of one document, and documents that are too short are left out.
        field: of a JSON line, that holds the document.
    Raises:
        FileFormatError: a file that is not such text, or a directory without a tokenizer.
        InvalidProblemError: too little text; tells how many tokens there are and how many are needed.
    """
    for name, value in (("samples", samples), ("length", length), ("batch", batch)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InvalidProblemError(f"{name} {value!r} must be a whole number, at least 1")
    tokens = tokenise(read_documents(path, field), load_tokenizer(model))
    try:
        return draw(tokens, samples=samples, length=length, seed=seed, batch=batch, packing=packing)
    except InvalidProblemError as error:
        raise InvalidProblemError(f"{path}: {error}") from error


def read_documents(path: str | Path, field: str = "text") -> list[str]:
    """The documents of a text file (one) or of JSON lines (one each, empty ones aside).

    Raises:
        FileFormatError: not a file, not UTF-8, or a line that is not JSON or has no such field; names the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path} is not text in UTF-8: {error.reason} at byte {error.start}") from error
    if path.suffix.lower() not in _JSON_LINES:
        return [text] if text.strip() else []
    # Not splitlines(): that also splits at separators which JSON allows inside a text.
    lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    documents = [_document(line, field, f"{path}, line {number}") for number, line in lines]
    return [document for document in documents if document.strip()]


def _document(line: str, field: str, where: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise FileFormatError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get(field), str):
        there = f"it has {', '.join(map(repr, row))}" if isinstance(row, dict) else "it is no object"
        raise FileFormatError(f"{where}: no text {field!r}; {there}")
    return str(row[field])


def load_tokenizer(model: str | Path) -> Any:
    """The tokenizer in a model's directory.

    Raises:
        FileFormatError: there is none that transformers can load.
    """
    from transformers import AutoTokenizer

    if not Path(model).is_dir():  # transformers would take it for the name of a model on the hub
        raise FileFormatError(f"{model} is no directory; give that of a Hugging Face model")
    try:
        return AutoTokenizer.from_pretrained(str(model), local_files_only=True, trust_remote_code=False)
    # Of transformers and of tokenizers alike, whose errors are plain Exceptions.
    except Exception as error:
        raise FileFormatError(f"{model} has no tokenizer that transformers can load: {error}") from error


def tokenise(documents: Sequence[str], tokenizer: Any) -> list[Tensor]:
    """Token ids (T,) of each document, with what the tokenizer puts around a text."""
    if not documents:
        return []
    # Without verbose=False there is a warning that the text is longer than the model's context, which it may be.
    found = tokenizer(list(documents), verbose=False)["input_ids"]
    return [torch.tensor(ids, dtype=torch.long) for ids in _parted(found, tokenizer.eos_token_id)]


def _parted(documents: list[list[int]], end: int | None) -> list[list[int]]:
    """Documents with the token that ends one behind each, where there are several and the model has such a token."""
    if end is None or len(documents) < 2:
        return documents
    return [ids if ids and ids[-1] == end else [*ids, end] for ids in documents]


def draw(
    tokens: Sequence[Tensor],
    *,
    samples: int,
    length: int,
    seed: int = 0,
    batch: int = 8,
    packing: Packing = "packed",
) -> list[Batch]:
    """Samples of tokenised documents, see `calibration_text`.

    Raises:
        InvalidProblemError: too few tokens, or too few documents that are long enough.
    """
    if packing == "packed":
        found = _packed(tokens, samples, length)
    elif packing == "documents":
        found = _beginnings(tokens, samples, length)
    else:
        raise InvalidProblemError(f"packing {packing!r}: choose 'packed' or 'documents'")
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:samples]
    return [{"input_ids": found[order[k : k + batch]]} for k in range(0, len(order), batch)]


def _packed(tokens: Sequence[Tensor], samples: int, length: int) -> Tensor:
    """(count, length) windows side by side, at least `samples`."""
    have, need = sum(map(len, tokens)), samples * length
    if have < need:
        raise InvalidProblemError(
            f"{have:,} tokens, but {samples} samples of {length} need {need:,}; give more text, or fewer or shorter "
            "samples"
        )
    count = have // length
    return torch.cat(list(tokens))[: count * length].view(count, length)


def _beginnings(tokens: Sequence[Tensor], samples: int, length: int) -> Tensor:
    """(count, length) beginnings of documents, at least `samples`."""
    found = [ids[:length] for ids in tokens if len(ids) >= length]
    if len(found) < samples:
        raise InvalidProblemError(
            f"{len(found)} of {len(tokens)} documents have {length} tokens or more (the longest has "
            f"{max(map(len, tokens), default=0):,}), but {samples} samples need one each; give more text, fewer or "
            "shorter samples, or pack documents together"
        )
    return torch.stack(found)

"""Batches without what their attention masks call padding.

Cut off, padding can count nowhere: not in sums over positions, nor among the samples that are routed to an expert.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from tmask.errors import InvalidProblemError

_MASK = "attention_mask"
# Models of two parts have a mask for each; their labels go with what the decoder reads.
_DECODER = "decoder_"


def without_padding(batch: Any, number: int) -> Iterator[Any]:
    """A batch whose sequences are padded as several that are not: sequences that lie alike stay together.

    A batch without masks comes back as it is. Sequences that are all padding are dropped.

    Args:
        number: of the batch, for errors.
    Raises:
        InvalidProblemError: padding inside a sequence, which cannot be cut off.
    """
    if not isinstance(batch, Mapping):
        yield batch
        return
    decoder = any(key.startswith(_DECODER) for key in batch)
    of_decoder = {key for key in batch if key.startswith(_DECODER) or (decoder and key == "labels")}
    for part in _cut_by(_MASK, batch, batch.keys() - of_decoder, number):
        yield from _cut_by(_DECODER + _MASK, part, of_decoder, number)


def _cut_by(mask_name: str, batch: Mapping[str, Any], along: set[str], number: int) -> Iterator[Mapping[str, Any]]:
    """The batch by one mask: of the entries `along` rows and positions are chosen, of the others rows alone."""
    mask = batch.get(mask_name)
    if not isinstance(mask, Tensor) or mask.ndim != 2 or bool(mask.all()):
        yield batch
        return
    alike: dict[tuple[int, int], list[int]] = {}
    for row, line in enumerate(mask.bool().cpu()):
        real = line.nonzero().flatten().tolist()
        if not real:
            continue
        if len(real) != real[-1] - real[0] + 1:
            raise InvalidProblemError(
                f"calibration batch {number}: sequence {row} has padding inside; {mask_name} must be 1 on one run of "
                "positions"
            )
        alike.setdefault((real[0], real[-1] + 1), []).append(row)
    for (start, stop), rows in alike.items():
        yield {key: _cut(value, mask, rows, slice(start, stop), key in along) for key, value in batch.items()}


def _cut(value: Any, mask: Tensor, rows: list[int], positions: slice, along: bool) -> Any:
    sequences, length = mask.shape
    if not isinstance(value, Tensor) or not value.ndim:
        return value
    # Positions that all sequences share, (T,) or (1, T).
    if along and value.ndim == 1 and len(value) == length != sequences:
        return value[positions]
    chosen = value[rows] if len(value) == sequences else value
    if along and value.ndim > 1 and len(value) in (1, sequences) and value.shape[1] == length:
        return chosen[:, positions]
    return chosen

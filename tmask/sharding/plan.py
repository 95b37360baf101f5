"""Layers split among processes: each computes the whole plan alone, and all get the same."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tmask.errors import InvalidProblemError
from tmask.files.bands import num_lines, unit_lines
from tmask.files.layers import Layer


def split(layers: Sequence[Layer], count: int, m: int) -> list[list[Layer]]:
    """What each of `count` shards solves, of nearly the same number of weights: layers, and bands of large ones.

    A layer that is larger than a share comes in bands of about a share, as far as tiles of side m allow; smaller ones
    too where there would be fewer pieces than shards. No shard has more than a share and its smallest piece.

    Raises:
        InvalidProblemError: fewer bands than shards.
    """
    pieces = [piece for layer, bands in _bands(layers, count, m) for piece in cut(layer, bands, m)]
    if len(pieces) < count:
        raise InvalidProblemError(
            f"{count} shards for {len(pieces)} rows of tiles: some would have nothing; ask for fewer"
        )
    by_name = {piece.name: piece for piece in pieces}
    shares = spread({name: math.prod(piece.shape) for name, piece in by_name.items()}, count)
    return [[by_name[name] for name in by_name if name in share] for share in map(set, shares)]


def spread(sizes: Mapping[str, int], count: int) -> list[list[str]]:
    """Names for each of `count` shards, of nearly the same size together.

    The largest first, each to the shard with the least so far: none is more than 4/3 as large as it must be. Equal
    sizes are taken by name, so that the order in the file makes no difference.
    """
    shares: list[list[str]] = [[] for _ in range(count)]
    filled = [0] * count
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        least = filled.index(min(filled))
        shares[least].append(name)
        filled[least] += sizes[name]
    return shares


def fingerprint(shapes: Iterable[tuple[str, tuple[int, ...]]], count: int) -> str:
    """Of a plan: shards that do not share it are not of one run."""
    known = json.dumps([count, sorted((name, list(shape)) for name, shape in shapes)])
    return hashlib.sha256(known.encode()).hexdigest()[:32]


def _bands(layers: Sequence[Layer], count: int, m: int) -> Iterator[tuple[Layer, int]]:
    """How many bands each layer comes in."""
    share = sum(math.prod(layer.shape) for layer in layers) / count
    bands = {layer.name: min(_most(layer, m), math.ceil(math.prod(layer.shape) / share)) for layer in layers}
    by_name = sorted(layers, key=lambda layer: layer.name)
    while sum(bands.values()) < count:  # so that each has something
        cut_further = [layer for layer in by_name if bands[layer.name] < _most(layer, m)]
        if not cut_further:
            break
        bands[max(cut_further, key=lambda layer: _largest(layer, bands[layer.name], m)).name] += 1
    for layer in layers:
        yield layer, bands[layer.name]


def _most(layer: Layer, m: int) -> int:
    """Bands of one row of tiles each."""
    unit = unit_lines(layer.shape, layer.groups, layer.layout)
    return num_lines(layer.shape, layer.layout) // unit * math.ceil(unit / m)


def _largest(layer: Layer, bands: int, m: int) -> int:
    """Weights of the largest band."""
    line = math.prod(layer.shape) // num_lines(layer.shape, layer.layout)
    return line * max(last - first for first, last in _edges(layer, bands, m))


def cut(layer: Layer, bands: int, m: int) -> list[Layer]:
    """The layer in so many bands, or as many as rows of tiles allow; itself where there is but one."""
    bands = min(bands, _most(layer, m))
    return [layer] if bands == 1 else [layer.cut(first, last) for first, last in _edges(layer, bands, m)]


def _edges(layer: Layer, bands: int, m: int) -> Iterator[tuple[int, int]]:
    """Lines from and up to which each band goes: whole units where these suffice, else rows of tiles of each."""
    unit = unit_lines(layer.shape, layer.groups, layer.layout)
    units = num_lines(layer.shape, layer.layout) // unit
    if bands <= units:
        for first, last in _evenly(units, bands):
            yield first * unit, last * unit
        return
    for number, (first, last) in enumerate(_evenly(bands, units)):
        for top, bottom in _evenly(math.ceil(unit / m), last - first):
            yield number * unit + top * m, number * unit + min(bottom * m, unit)


def _evenly(length: int, parts: int) -> Iterator[tuple[int, int]]:
    """From and up to which each part of a length goes."""
    for part in range(parts):
        yield part * length // parts, (part + 1) * length // parts

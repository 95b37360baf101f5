"""Layers split among processes: each computes the whole plan alone, and all get the same."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping

from tmask.errors import InvalidProblemError

Shapes = Mapping[str, tuple[int, ...]]


def split(shapes: Shapes, count: int) -> list[list[str]]:
    """Names for each of `count` shards, of nearly the same number of weights.

    The largest layer first, each to the shard with the least so far: none is more than 4/3 as large as it must be.
    Equal sizes are taken by name, so that the order in the file makes no difference.

    Raises:
        InvalidProblemError: fewer layers than shards.
    """
    if count > len(shapes):
        raise InvalidProblemError(f"{count} shards for {len(shapes)} layers: some would have nothing; ask for fewer")
    shards: list[list[str]] = [[] for _ in range(count)]
    sizes = [0] * count
    for name in sorted(shapes, key=lambda name: (-math.prod(shapes[name]), name)):
        least = sizes.index(min(sizes))
        shards[least].append(name)
        sizes[least] += math.prod(shapes[name])
    return shards


def fingerprint(shapes: Iterable[tuple[str, tuple[int, ...]]], count: int) -> str:
    """Of a plan: shards that do not share it are not of one run."""
    known = json.dumps([count, sorted((name, list(shape)) for name, shape in shapes)])
    return hashlib.sha256(known.encode()).hexdigest()[:32]

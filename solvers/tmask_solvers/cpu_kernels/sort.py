"""Entries of a block from light to heavy, ties in order of their index.

float32 scores are at least 0, so their bits (less the sign, for a -0.0) order like their values: the bits in the high
half of a 64-bit key and the entry's index in the low half make one integer sort of the whole problem. Small blocks are
sorted by counting how many keys are less, O(m^4) but without a branch and in vectors; larger ones by radix.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tmask_solvers.cpu_kernels.compiling import kernel

Array = npt.NDArray[Any]

_DIGIT = 8
_RADIX_FROM = 65  # entries: blocks up to side 8 are counted


@kernel
def sort_scratch(size: int) -> tuple[Array, Array, Array, Array]:
    """Room for `order_entries` on blocks of `size` entries."""
    key, spare = np.empty(size, np.uint64), np.empty(size, np.uint64)
    return key, spare, np.empty((4, 256), np.int64), np.empty(size, np.int32)


@kernel
def order_entries(scores: Array, scratch: tuple[Array, Array, Array, Array]) -> Array:
    """Indices i * m + j of one block (m, m) of float32 or float64, light to heavy; int32, in the scratch."""
    key, spare, histogram, order = scratch
    flat = scores.ravel()
    size = flat.size
    if scores.itemsize == 8:
        # The one stable sort that numba has: ties must go by index, as they do below.
        order[:] = np.argsort(flat, kind="mergesort")  # no room for an index beside 64 bits
        return order
    bits = flat.view(np.uint32)
    for k in range(size):
        key[k] = (np.uint64(bits[k] & np.uint32(0x7FFFFFFF)) << np.uint64(32)) | np.uint64(k)
    if size < _RADIX_FROM:
        _count_less(key, spare)
        for k in range(size):
            order[np.int64(spare[k])] = np.int32(k)
    else:
        _radix_sort(key, spare, histogram)
        for k in range(size):
            order[k] = np.int32(key[k] & np.uint64(0xFFFF))
    return order


@kernel
def _count_less(key: Array, rank: Array) -> None:
    """rank[k] = how many keys are less than key[k], which is its place, since no two are equal."""
    rank[:] = 0
    for x in key:
        for k in range(key.size):
            rank[k] += np.uint64(x < key[k])


@kernel
def _radix_sort(key: Array, spare: Array, histogram: Array) -> None:
    """Four stable passes over the upper 32 bits, from the lowest digit; the lower 32 are in order already."""
    histogram[:] = 0
    for k in range(key.size):
        x = key[k]
        for digit in range(4):
            histogram[digit, np.int64((x >> np.uint64(32 + _DIGIT * digit)) & np.uint64(255))] += 1
    source, target = key, spare
    # An even number of passes, so that the result is in `key` again.
    for digit in range(4):
        shift = np.uint64(32 + _DIGIT * digit)
        counts = histogram[digit]
        for value in range(1, 256):
            counts[value] += counts[value - 1]
        for value in range(255, 0, -1):
            counts[value] = counts[value - 1]
        counts[0] = 0
        for k in range(key.size):
            x = source[k]
            place = np.int64((x >> shift) & np.uint64(255))
            target[counts[place]] = x
            counts[place] += 1
        source, target = target, source

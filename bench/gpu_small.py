"""Small solves by `midpoint-cuda`, compared with the CPU: every kernel once, at a size that a sanitizer can watch.

python -m bench.gpu_small
"""

from __future__ import annotations

import torch

import tmask

# A closed form, rounds alone, and rounds that leave ties to the paths; both halves of a warp, and more than one.
CASES = (("2:4", False), ("4:8", False), ("4:8", True), ("8:16", True))
_SHAPE = (48, 80)


def differing(pattern: str, ties: bool, device: str) -> float:
    """By how much the objective on a device is off the CPU's, relative to it."""
    weight = torch.randn(_SHAPE, generator=torch.Generator().manual_seed(0))
    if ties:
        weight = (2 * weight).round()
    ours = tmask.solve(weight.to(device), pattern, "midpoint-cuda" if device == "cuda" else "midpoint-torch")
    expected = tmask.solve(weight, pattern)
    tmask.check_mask(ours.mask, pattern)
    return abs(ours.objective - expected.objective) / expected.objective


def main(device: str = "cuda") -> int:
    """Print each case; 1 if one is wrong."""
    wrong = 0
    for pattern, ties in CASES:
        error = differing(pattern, ties, device)
        wrong += error > 1e-12
        print(f"{pattern}{', ties' if ties else ''}: off by {error:.3g} of the optimum", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())

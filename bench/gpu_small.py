"""Small solves by `midpoint-cuda`, compared with the CPU: every kernel once, at a size that a sanitizer can watch.

python -m bench.gpu_small [--device cpu]

On a CPU `midpoint-torch` stands in, which shows that the script works and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
import typer

import tmask
from tmask.blocks.pattern import Pattern
from tmask.solving.devices import solve_many_on_device
from tmask.solving.registry import get_solver
from tmask.solving.request import Request

# A closed form, rounds alone, and rounds that leave ties to the paths; both halves of a warp, and more than one.
CASES = (("2:4", False), ("4:8", False), ("4:8", True), ("8:16", True))
_SHAPE = (48, 80)
_LAYERS = ((48, 80), (16, 32), (64, 16))  # solved by one launch


def differing(pattern: str, ties: bool, device: str) -> float:
    """By how much the objective on a device is off the CPU's, relative to it."""
    weight = torch.randn(_SHAPE, generator=torch.Generator().manual_seed(0))
    if ties:
        weight = (2 * weight).round()
    ours = tmask.solve(weight.to(device), pattern, _solver_on(device))
    expected = tmask.solve(weight, pattern)
    tmask.check_mask(ours.mask, pattern)
    return abs(ours.objective - expected.objective) / expected.objective


def differing_together(pattern: str, device: str) -> float:
    """The same for the largest difference among layers that are solved at once."""
    draw = torch.Generator().manual_seed(1)
    weights = [torch.randn(shape, generator=draw) for shape in _LAYERS]
    solver = get_solver(_solver_on(device))
    found = solve_many_on_device([Request(one.to(device), Pattern.parse(pattern), solver) for one in weights])
    differences = []
    for weight, (mask, answers) in zip(weights, found, strict=True):
        expected = tmask.solve(weight, pattern).objective
        tmask.check_mask(mask, pattern)
        differences.append(abs(sum(answer.worth.objective for answer in answers) - expected) / expected)
    return max(differences)


def _solver_on(device: str) -> str:
    return "midpoint-cuda" if device == "cuda" else "midpoint-torch"


def wrong_ones(device: str) -> int:
    """Print each case, and return how many are wrong."""
    wrong = 0
    for name, error in cases(device):
        wrong += error > 1e-12
        print(f"{name}: off by {error:.3g} of the optimum", flush=True)
    return wrong


def cases(device: str) -> Iterator[tuple[str, float]]:
    """By how much each is off."""
    for pattern, ties in CASES:
        yield f"{pattern}{', ties' if ties else ''}", differing(pattern, ties, device)
    for pattern in ("2:4", "4:8"):
        yield f"{pattern}, {len(_LAYERS)} layers at once", differing_together(pattern, device)


def main(device: Annotated[str, typer.Option(help="cuda, or cpu to try the script.")] = "cuda") -> None:
    """Exit code 1 if one is wrong."""
    raise typer.Exit(int(wrong_ones(device) > 0))


if __name__ == "__main__":
    typer.run(main)

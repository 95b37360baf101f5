"""Several weights at once: those that stay on one device are solved, judged and fetched together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tmask.judging.solution import Solution
from tmask.solving.devices import solve_many_on_device, stays_on_device
from tmask.solving.region_answer import make_solution
from tmask.solving.request import Request


def go_together(requests: Sequence[Request]) -> bool:
    """Whether `solve_together` takes these weights: all of them stay on one device."""
    return len({request.weight.device for request in requests}) == 1 and all(
        stays_on_device(request.weight, request.solver, request.pattern.m) for request in requests
    )


def solve_together(requests: Sequence[Request]) -> list[Solution]:
    """What `tmask.solve` gives for each; the host waits for the device once for all of them, not once for each.

    Raises:
        InvalidProblemError, SolverFailedError: see `solve_many_on_device`, which tells of which weight they are.
    """
    results = solve_many_on_device([replace(request, progress=None) for request in requests])
    return [
        make_solution(mask, request.pattern, answers, request.layout)
        for request, (mask, answers) in zip(requests, results, strict=True)
    ]

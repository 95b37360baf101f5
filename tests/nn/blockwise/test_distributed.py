"""Several processes: each runs its share of the data, and all find the masks of one process."""

from __future__ import annotations

import time

import pytest
import torch
from torch import distributed as dist
from torch import nn

from tests.nn.processes import run
from tmask.errors import InvalidProblemError, TmaskError
from tmask.nn import BlockRefit, Tuning, prune_blocks
from tmask.nn.methods.wanda import Wanda


def stack(width=16, seed=0):
    torch.manual_seed(seed)
    parts = (nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Linear(width, 8)) for _ in range(2))
    return nn.Sequential(*parts).double()


class Residual(nn.Sequential):
    """A part whose outputs are added to its inputs."""

    def forward(self, x):
        return x + super().forward(x)


def residual_stack():
    return nn.Sequential(*(Residual(*block) for block in stack()))


def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(rows, 8, generator=generator, dtype=torch.float64) for rows in (30, 40, 50)]


class Failing(Wanda):
    """A method that fails in one process alone."""

    def prune(self, problem):
        if dist.get_rank() == 1:
            raise MemoryError("no room")
        return super().prune(problem)


def fail_alike(rank):
    """What one process alone meets, all raise; none waits."""
    other = rank == 1
    cases = {
        "pattern, method or goal differ": lambda: prune_blocks(stack(), batches(), "1:4" if other else "2:4"),
        "the numbers of calibration batches differ": lambda: prune_blocks(stack(), batches()[: 3 - rank], "2:4"),
        "the parameters differ": lambda: prune_blocks(stack(12 if other else 16), batches(), "2:4"),
        "the weights differ": lambda: prune_blocks(stack(seed=rank), batches(), "2:4"),
        "rank 1: goal 'x'": lambda: prune_blocks(stack(), batches(), "2:4", goal="x" if other else "dense"),
        "rank 1: calibration": lambda: prune_blocks(stack(), 7 if other else batches(), "2:4"),
        "rank 1: output goes": lambda: prune_blocks(stack(), batches(), "2:4", output="x" if other else None),
        "rank 1: ZeroDivisionError": lambda: prune_blocks(stack(), batches(), "2:4", forward=bad if other else good),
        "rank 1: MemoryError: no room": lambda: prune_blocks(stack(), batches(), "2:4", method=Failing()),
        "rank 1: MemoryError: no more": lambda: prune_blocks(failing(other), batches(), "2:4", tuning=Tuning()),
    }
    for match, case in cases.items():
        begin = time.perf_counter()
        with pytest.raises(TmaskError, match=match):
            case()
        # The pruning up to the failure is in it; a rank that waits does so for minutes.
    assert time.perf_counter() - begin < 5


class FailsBackward(nn.Module):
    """Identity until gradients are taken."""

    def forward(self, x):
        if torch.is_grad_enabled():
            raise MemoryError("no more")
        return x


def failing(other):
    model = stack()
    if other:
        model[1].append(FailsBackward())
    return model


def good(model, batch):
    return model(batch)


def bad(model, batch):
    raise ZeroDivisionError("no forward")


def work(rank, world, folder):
    model = stack()
    report = prune_blocks(model, batches(), "2:4", method="wanda")
    torch.save((model.state_dict(), dict(report.masks), [row.samples for row in report.rows]), folder / f"{rank}.pt")
    data = batches()
    if rank == 1:
        data[1][0, 0] = 1e308  # of its share alone
    with pytest.raises(InvalidProblemError, match="NaN"):
        prune_blocks(stack(), data, "2:4", method="wanda")
    fail_alike(rank)
    with pytest.raises(InvalidProblemError, match="1 calibration batches for 2 processes"):
        prune_blocks(stack(), data[:1], "2:4", method="wanda")


def tune(rank, world, folder):
    for name, settings in SETTINGS.items():
        model = residual_stack()
        report = prune_blocks(model, batches(), "2:4", method="wanda", **settings)
        errors = [block.error for block in report.blocks]
        torch.save((model.state_dict(), dict(report.masks), errors), folder / f"{name}{rank}.pt")


# Three batches for two processes: in the last step of two, one of them has none.
SETTINGS = {
    "step by step": {"tuning": Tuning(epochs=3)},
    "steps of two": {"tuning": Tuning(epochs=3, batches=2)},
    "refit": {"block_refit": BlockRefit()},
}


def test_two_processes_tune_and_refit_as_one_does(tmp_path):
    run(tune, 2, tmp_path)
    for name, settings in SETTINGS.items():
        model = residual_stack()
        report = prune_blocks(model, batches(), "2:4", method="wanda", **settings)
        states = []
        for rank in range(2):
            state, masks, errors = torch.load(tmp_path / f"{name}{rank}.pt")
            states.append(state)
            assert errors == pytest.approx([block.error for block in report.blocks], rel=1e-9)
            assert all(torch.equal(masks[key], report.masks[key]) for key in report.masks)
            for key, value in model.state_dict().items():
                torch.testing.assert_close(state[key], value, rtol=1e-7, atol=1e-9)
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0]), name


def test_two_processes_find_what_one_does(tmp_path):
    run(work, 2, tmp_path)
    model = stack()
    report = prune_blocks(model, batches(), "2:4", method="wanda")
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for state, masks, samples in found:
        assert samples == [120] * 4
        assert all(torch.equal(masks[name], report.masks[name]) for name in report.masks)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(found[0][0][name], found[1][0][name]) for name in found[0][0])

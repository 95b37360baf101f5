"""Several processes: each runs its share of the data, and all find the masks of one process."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.nn.processes import run
from tmask.errors import InvalidProblemError
from tmask.nn import Tuning, prune_blocks


def stack():
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(2))).double()


def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(rows, 8, generator=generator, dtype=torch.float64) for rows in (30, 40, 50)]


def work(rank, world, folder):
    model = stack()
    report = prune_blocks(model, batches(), "2:4", method="wanda")
    torch.save((model.state_dict(), dict(report.masks), [row.samples for row in report.rows]), folder / f"{rank}.pt")
    data = batches()
    if rank == 1:
        data[1][0, 0] = 1e308  # of its share alone
    with pytest.raises(InvalidProblemError, match="NaN"):
        prune_blocks(stack(), data, "2:4", method="wanda")
    with pytest.raises(InvalidProblemError, match="1 calibration batches for 2 processes"):
        prune_blocks(stack(), data[:1], "2:4", method="wanda")
    with pytest.raises(InvalidProblemError, match="tuning is done by one process"):
        prune_blocks(stack(), data, "2:4", tuning=Tuning())


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

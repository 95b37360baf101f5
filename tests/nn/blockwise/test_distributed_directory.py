"""A directory pruned by several processes: one writes, all follow, and what one meets all raise."""

from __future__ import annotations

import json
import time

import pytest
import torch

pytest.importorskip("transformers")

from safetensors.torch import load_file
from torch import distributed as dist

from tests.nn.blockwise.tiny_models import make, tokens
from tests.nn.processes import run
from tmask.errors import TmaskError
from tmask.nn import Tuning, prune_blocks
from tmask.nn.blockwise import directory
from tmask.nn.methods.wanda import Wanda

DATA = [{"input_ids": batch["input_ids"]} for batch in tokens(3)]
SETTINGS = {"method": "wanda", "dtype": torch.float64, "tuning": Tuning(epochs=2)}


class Failing(Wanda):
    """A method that fails in one process alone."""

    def prune(self, problem):
        if dist.get_rank() == 1:
            raise MemoryError("no room")
        return super().prune(problem)


def tensors(path):
    return {name: value for file in sorted(path.glob("*.safetensors")) for name, value in load_file(file).items()}


def fails(match, folder, name="refused", **settings):
    """All processes raise the same, soon, and no output is there."""
    begin = time.perf_counter()
    data = settings.pop("data", DATA)
    with pytest.raises(TmaskError, match=match):
        prune_blocks(folder / "model", data, "2:4", output=folder / name, **SETTINGS | settings)
    assert time.perf_counter() - begin < 10
    assert not (folder / "refused").exists()


def work(rank, world, folder):
    report = prune_blocks(folder / "model", DATA, "2:4", output=folder / "out", **SETTINGS)
    assert (folder / "out/tmask/report.json").is_file()  # whichever returns first
    torch.save((dict(report.masks), [block.error for block in report.blocks]), folder / f"{rank}.pt")
    stop_and_go_on(rank, folder)
    fail_alike(rank, folder)


def stop_and_go_on(rank, folder):
    def progress(done, count, name):
        if done == 1 and rank == 1:
            raise KeyError("stopped")

    fails("rank 1: KeyError", folder, name="again", progress=progress)
    prune_blocks(folder / "model", DATA, "2:4", output=folder / "again", **SETTINGS)


def fail_alike(rank, folder):
    fails("exists already", folder, name="out")
    fails("rank 1: MemoryError", folder, method=Failing())
    fails("pattern, method or goal differ on rank 1", folder, method="wanda" if rank else "magnitude")
    fails("the calibration batches differ on rank 1", folder, data=DATA[::-1] if rank else DATA)
    fails("the outputs differ on rank 1", folder, name=f"refused{rank}")
    # What the first alone does: it begins, writes, and ends.
    for name in ("Journal.begin", "Shards.write", "write_mask_files"):
        with pytest.MonkeyPatch.context() as patch:
            if rank == 0:
                patch.setattr(f"{directory.__name__}.{name}", full)
            fails("rank 0: OSError: no space left", folder, name=f"refused-{name}")


def full(*_, **__):
    raise OSError("no space left")


def test_two_processes_write_what_one_does(tmp_path):
    make("llama", torch.float32).save_pretrained(tmp_path / "model", max_shard_size="6KB")
    run(work, 2, tmp_path)
    report = prune_blocks(tmp_path / "model", DATA, "2:4", output=tmp_path / "one", **SETTINGS)
    expected, found, again = (tensors(tmp_path / name) for name in ("one", "out", "again"))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7)
        assert torch.equal(found[name], again[name]), name
    for rank in range(2):
        masks, errors = torch.load(tmp_path / f"{rank}.pt")
        assert all(torch.equal(masks[name], report.masks[name]) for name in report.masks)
        assert errors == pytest.approx([block.error for block in report.blocks], rel=1e-6)
    rows = [json.loads((tmp_path / name / "tmask/report.json").read_text())["matrices"] for name in ("one", "out")]
    assert [row["samples"] for row in rows[0]] == [row["samples"] for row in rows[1]]

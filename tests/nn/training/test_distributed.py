"""Training by several processes; what they do and check is in `ranks_at_work`."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.nn import ranks_at_work
from tests.nn.processes import run
from tests.nn.training import failing_ranks
from tmask.errors import RanksDifferError, SolverFailedError
from tmask.nn.distributed.fingerprint import fingerprint
from tmask.nn.distributed.ranks import Ranks, check_same, portable, raise_first


def test_ddp_with_two_processes(tmp_path):
    run(ranks_at_work.with_ddp, 2, tmp_path)


def test_fully_shard_with_three_processes(tmp_path):
    run(ranks_at_work.with_fsdp, 3, tmp_path)


def test_writes_into_what_fully_shard_has_cut(tmp_path):
    run(ranks_at_work.writes_to_shards, 2, tmp_path)


def test_a_rank_that_trains_alone_is_an_error_on_all(tmp_path):
    run(ranks_at_work.some_alone, 2, tmp_path)
    assert (tmp_path / "0.txt").read_text() == (tmp_path / "1.txt").read_text()


def test_a_process_alone_needs_no_ranks():
    for distributed in (None, False):
        assert Ranks.of(distributed) is None


def test_training_alone_imports_nothing_that_it_does_not_need():
    code = (
        "import sys, torch, tmask.nn\n"
        "model = torch.nn.Linear(8, 8)\n"
        "optimizer = torch.optim.SGD(model.parameters(), 0.1)\n"
        "tmask.nn.sparsify(model, schedule=tmask.nn.Periodic(every=1), optimizer=optimizer)\n"
        "model(torch.ones(1, 8)).sum().backward(); optimizer.step()\n"
        "print([name for name in ('tmask.nn.training.sharing', 'tmask.nn.mask.sharding') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@given(
    size=st.integers(1, 40),
    dtype=st.sampled_from([torch.bool, torch.bfloat16, torch.float32, torch.float64]),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_every_bit_and_its_place_shows_in_a_fingerprint(size, dtype, seed, data):
    generator = torch.Generator().manual_seed(seed)
    tensor = (torch.randn(size, 3, generator=generator) * 3).to(dtype)
    same = tensor.t().contiguous().t()  # the same values, laid out otherwise
    assert fingerprint(tensor) == fingerprint(same)
    octets = tensor.clone().view(torch.uint8).flatten()
    place = data.draw(st.integers(0, len(octets) - 1))
    octets[place] ^= 1 if dtype == torch.bool else 2 ** data.draw(st.integers(0, 7))
    assert fingerprint(octets) != fingerprint(tensor)
    moved = tensor.roll(1, 0)
    assert (fingerprint(moved) == fingerprint(tensor)) == torch.equal(
        moved.contiguous().view(torch.uint8), tensor.view(torch.uint8)
    )


def test_fingerprints_of_tensors_longer_than_a_chunk():
    mask = torch.zeros(2**23 + 5, dtype=torch.bool)  # one chunk of 2^20 words, and a little
    seen = {fingerprint(mask)}
    for place in (0, 8, 2**23 - 1, 2**23, 2**23 + 4):
        changed = mask.clone()
        changed[place] = True
        seen.add(fingerprint(changed))
    assert len(seen) == 6


def test_what_ranks_disagree_on_is_said():
    check_same([1, 1, 1], "step differs", "wait")
    with pytest.raises(RanksDifferError, match=r"^step differs on ranks 1, 3 from rank 0; wait$"):
        check_same([1, 2, 1, 3], "step differs", "wait")


def test_a_failure_elsewhere_keeps_its_rank_and_text():
    raise_first([None, None], None)
    with pytest.raises(SolverFailedError, match=r"^rank 1: OSError: disk full$"):
        raise_first([None, portable(OSError("disk full"))], None)


@pytest.mark.parametrize("work", [failing_ranks.arguments, failing_ranks.failures], ids=lambda work: work.__name__)
def test_what_fails_on_one_rank_fails_on_all_at_once(work, tmp_path):
    run(work, 2, tmp_path)


def test_a_save_that_fails_on_one_rank_fails_on_all(tmp_path):
    pytest.importorskip("transformers")
    run(failing_ranks.saves, 2, tmp_path)

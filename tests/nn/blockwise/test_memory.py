"""A directory is pruned without loading the model."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("transformers")

from tests.nn.blockwise.tiny_models import make

CODE = r"""
import re, sys, torch
from tmask.nn import get_method, prune_blocks
torch.set_num_threads(1)
data = [{"input_ids": torch.arange(3, 35).reshape(2, 16)}]
method = get_method("magnitude", refit=False)
prune_blocks(sys.argv[1], data, "2:4", output=sys.argv[2], method=method, transposable=False)
# Not ru_maxrss, which starts at the peak of the process that started this one.
print(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])
"""
WIDTH = {"hidden_size": 384, "intermediate_size": 768, "head_dim": 96}


def peak(folder, depth):
    """Bytes in memory at most while a model is pruned, and those of its weights."""
    path = folder / f"model{depth}"
    make("llama", torch.float32, num_hidden_layers=depth, **WIDTH).save_pretrained(path, max_shard_size="20MB")
    command = [sys.executable, "-c", CODE, str(path), str(folder / f"out{depth}")]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    return int(done.stdout) * 1024, sum(file.stat().st_size for file in path.glob("*.safetensors"))


def test_the_model_is_never_loaded(tmp_path):
    least, _ = peak(tmp_path, 2)
    most, size = peak(tmp_path, 20)
    assert size > 100e6
    # None to speak of: blocks come one by one, and masks are bits. Peaks differ by 40 MB from run to run, so the bound
    # is what tells that from a model in memory, whose 18 more blocks are 0.9 of its size.
    assert most - least < 0.7 * size, (least, most, size)


def test_the_files_of_killed_runs_are_removed_by_the_next(tmp_path):
    code = "import os, torch; from tmask.nn.blockwise.memory.states import States\n"
    code += "states = States(limit=0); states.append(torch.ones(4)); os.kill(os.getpid(), 9)"
    environment = os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], env=environment, check=False)
        assert len([*tmp_path.iterdir()]) == 1

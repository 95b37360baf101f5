"""`--keep-zeros` of `tmask solve`, its mask file, and `tmask check` of that."""

import numpy as np

import tmask
from tests.cli.harness import run
from tests.solving.test_keep_zeros import sparse


def test_a_file_says_so_and_is_checked_by_it(tmp_path):
    weight = sparse((16, 16), 0.7)
    np.savez(tmp_path / "weights.npz", layer=weight)
    arguments = ["solve", tmp_path / "weights.npz", "-p", "2:4", "-o", tmp_path / "masks.safetensors"]
    assert run(*arguments, "--keep-zeros").exit_code == 0
    record = tmask.read_masks(tmp_path / "masks.safetensors")["layer"]
    assert record.at_most
    assert record.status == "optimal"
    assert not record.mask[weight == 0].any()
    assert run("check", tmp_path / "masks.safetensors", tmp_path / "weights.npz").exit_code == 0
    assert run(*arguments, "--overwrite").exit_code == 0
    assert not tmask.read_masks(tmp_path / "masks.safetensors")["layer"].at_most

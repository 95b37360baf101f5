"""Interrupted and failed runs of `tmask solve`: nothing half-written, nothing lost."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import tmask
from tests.cli.harness import TENSORS, leftovers, one_line, run, solve
from tmask.files.masks import read_masks


def test_an_interrupted_run_resumes(weights, interrupt_after):
    folder = weights.parent
    interrupt_after(1)
    result = solve(weights, code=130)
    stderr = one_line(result.stderr)
    assert stderr.startswith("error: interrupted")
    assert "masks.safetensors was not written" in stderr
    assert "1 of 3 layers are finished and kept in" in stderr
    assert "the same command goes on from there" in stderr
    assert result.stdout == ""
    assert leftovers(folder) == ["masks.safetensors.partial"]

    solved = interrupt_after(None)
    result = solve(weights)
    assert "resumed: 1 of 3 layers were finished in an earlier run" in result.stderr
    assert len(solved) == 2
    assert leftovers(folder) == ["masks.safetensors"]
    run("check", folder / "masks.safetensors", weights)
    whole = solve(weights, name="again.safetensors")
    assert "resumed" not in whole.stderr
    for name, record in read_masks(folder / "again.safetensors").items():
        np.testing.assert_array_equal(record.mask, read_masks(folder / "masks.safetensors")[name].mask)


def test_json_says_how_many_were_resumed(weights, interrupt_after):
    interrupt_after(2)
    solve(weights, code=130)
    interrupt_after(None)
    assert json.loads(solve(weights, "--json").stdout)["resumed"] == 2


def test_an_interrupt_before_any_layer_promises_nothing(weights, interrupt_after):
    interrupt_after(0)
    assert "kept in" not in solve(weights, code=130).stderr
    assert leftovers(weights.parent) == []


@pytest.mark.parametrize(
    "args", [("--solver", "bi-nm"), ("-p", "1:4"), ("--no-certify",), ("--groups", "conv*=2")], ids=str
)
def test_another_job_does_not_take_over_finished_layers(weights, interrupt_after, args):
    interrupt_after(1)
    solve(weights, code=130)
    solved = interrupt_after(None)
    assert "resumed" not in solve(weights, *args).stderr
    assert len(solved) == 3
    assert leftovers(weights.parent) == ["masks.safetensors"]


def test_other_weights_do_not_take_over_finished_layers(weights, interrupt_after):
    interrupt_after(1)
    solve(weights, code=130)
    save_file(TENSORS | {"conv.weight": -TENSORS["conv.weight"]}, weights)
    interrupt_after(None)
    assert "resumed" not in solve(weights).stderr


def test_a_failure_in_the_middle_keeps_the_finished_layers_and_writes_no_output(weights):
    save_file(TENSORS | {"fc1.weight": np.full((8, 8), np.nan, np.float32)}, weights)
    stderr = one_line(solve(weights, code=2).stderr)
    assert "error: layer 'fc1.weight': weight: 64 NaN" in stderr
    assert "1 of 3 layers are finished and kept" in stderr
    assert leftovers(weights.parent) == ["masks.safetensors.partial"]
    assert "resumed: 1 of 2" in solve(weights, "--exclude", "fc1*").stderr
    assert leftovers(weights.parent) == ["masks.safetensors"]


def test_an_interrupt_while_writing_says_what_was_written(weights, monkeypatch):
    import importlib

    module = importlib.import_module("tmask.cli.solve")  # the package's attribute of that name is the function

    def interrupted(*args):
        raise KeyboardInterrupt

    real = module.write_masks
    monkeypatch.setattr(module, "write_masks", interrupted)
    args = ("--masked-weights", weights.parent / "sparse.safetensors")
    stderr = one_line(solve(weights, *args, code=130).stderr)
    assert "sparse.safetensors was written, and is whole; --overwrite lets the next run replace it" in stderr
    assert "3 of 3 layers are finished" in stderr
    assert leftovers(weights.parent) == ["masks.safetensors.partial", "sparse.safetensors"]
    monkeypatch.setattr(module, "write_masks", real)
    assert "resumed: 3 of 3" in solve(weights, *args, "--overwrite").stderr
    assert leftovers(weights.parent) == ["masks.safetensors", "sparse.safetensors"]


def test_an_output_that_fails_at_the_end_is_exit_code_4(weights, monkeypatch):
    import importlib

    def full(*args):
        raise tmask.OutputError("cannot write masks.safetensors: No space left on device")

    monkeypatch.setattr(importlib.import_module("tmask.cli.solve"), "write_masks", full)
    stderr = one_line(solve(weights, code=4).stderr)
    assert "No space left on device" in stderr
    assert "3 of 3 layers are finished and kept" in stderr


def test_a_damaged_layer_is_solved_again_with_a_remark(weights, interrupt_after):
    interrupt_after(1)
    solve(weights, code=130)
    (kept,) = (weights.parent / "masks.safetensors.partial").iterdir()
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1  # in the mask itself
    kept.write_bytes(data)
    solved = interrupt_after(None)
    result = solve(weights)
    assert len(solved) == 3
    assert "resumed" not in result.stderr
    assert "what an earlier run had kept of it was damaged; it was solved again" in one_line(result.stderr)
    run("check", weights.parent / "masks.safetensors", weights)

"""`tmask check`: every way in which a mask file can be wrong."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.harness import LAYERS, TENSORS, one_line, run, solve
from tmask.files.masks import read_masks, write_masks
from tmask.files.packed_mask import PackedMask


@pytest.fixture
def masks(weights):
    solve(weights)
    return weights.parent / "masks.safetensors"


def change(masks, name="fc1.weight", **changes):
    """Write the file anew with one record changed."""
    records = read_masks(masks)
    records[name] = dataclasses.replace(records[name], **changes)
    write_masks(masks, records.values(), overwrite=True)


def test_json(weights, masks):
    checked = json.loads(run("check", masks, weights, "--json").stdout)
    assert checked["ok"]
    assert {layer["layer"] for layer in checked["layers"]} == LAYERS
    assert {layer["verdict"] for layer in checked["layers"]} == {"optimal"}
    assert {layer["optimality_gap"] for layer in checked["layers"]} == {0}


def test_masks_of_other_weights(weights, masks):
    other = weights.parent / "other.safetensors"
    save_file(TENSORS | {"fc1.weight": -TENSORS["fc1.weight"]}, other)
    result = run("check", masks, other, "--json", code=1)
    assert "fc1.weight' was made for other weights" in one_line(result.stderr)
    document = json.loads(result.stdout)
    assert not document["ok"]
    verdicts = {layer["layer"]: layer["verdict"] for layer in document["layers"]}
    assert verdicts == dict.fromkeys(LAYERS, "optimal") | {"fc1.weight": "wrong"}


def test_a_layer_that_the_weights_lack(weights, masks):
    save_file({name: tensor for name, tensor in TENSORS.items() if name != "fc1.weight"}, weights)
    assert "holds no tensor 'fc1.weight'" in one_line(run("check", masks, weights, code=1).stderr)


def test_an_underfilled_mask(weights, masks):
    solve(weights, "--solver", "bi-nm", "--overwrite")
    result = run("check", masks, weights, code=1)
    assert "not a transposable 2:4 mask" in one_line(result.stderr)
    assert "underfilled" in result.stdout


def test_a_flipped_bit(weights, masks):
    mask = read_masks(masks)["fc1.weight"].mask.copy()
    mask[3, 5] ^= True
    change(masks, packed=PackedMask.of(mask))
    assert "fc1.weight: its objective is" in one_line(run("check", masks, weights, code=1).stderr)


def test_a_mask_of_the_right_worth_that_breaks_the_pattern(weights, masks):
    record = read_masks(masks)["fc1.weight"]
    mask = np.ones_like(record.mask)
    change(masks, packed=PackedMask.of(mask), objective=record.total)
    assert "fc1.weight: not a transposable 2:4 mask" in one_line(run("check", masks, weights, code=1).stderr)


def test_a_wrong_objective(weights, masks):
    change(masks, objective=read_masks(masks)["fc1.weight"].objective * (1 + 1e-6))
    stderr = one_line(run("check", masks, weights, code=1).stderr)
    assert "fc1.weight: its objective is" in stderr
    assert "is recorded" in stderr


def test_a_wrong_total(weights, masks):
    change(masks, total=1.0)
    assert "fc1.weight: the sum of its scores is" in one_line(run("check", masks, weights, code=1).stderr)


def test_a_bound_that_the_mask_itself_beats(weights, masks):
    change(masks, dual_bound=read_masks(masks)["fc1.weight"].objective / 2)
    assert "more than the recorded bound" in one_line(run("check", masks, weights, code=1).stderr)


def test_groups_that_do_not_fit(weights, masks):
    change(masks, groups=5)
    assert "fc1.weight: weight of shape (16, 12): 5 groups" in one_line(run("check", masks, weights, code=1).stderr)


def test_a_claim_of_optimality_that_is_not_confirmed(weights, masks):
    solve(weights, "--solver", "random-best", "--set", "samples=2", "--overwrite")
    record = read_masks(masks)["fc1.weight"]
    assert record.status == "feasible"
    assert "recorded as optimal" not in run("check", masks, weights).stderr
    change(masks, status="optimal", dual_bound=record.objective)
    result = run("check", masks, weights)
    assert "fc1.weight: recorded as optimal; proven here to within" in one_line(result.stderr)
    assert "feasible" in result.stdout


def test_files_that_hold_no_masks_are_exit_code_2(weights):
    assert "no mask file" in one_line(run("check", weights, weights, code=2).stderr)
    np.savez(weights.parent / "weights.npz", **TENSORS)
    swapped = run("check", weights.parent / "weights.npz", weights, code=2).stderr
    assert "is no mask file: masks are .safetensors files" in one_line(swapped)
    assert "does not exist" in one_line(run("check", weights.parent / "none", weights, code=2).stderr)
    write_masks(weights.parent / "empty", [])
    assert "holds no masks" in one_line(run("check", weights.parent / "empty", weights, code=2).stderr)

"""A layer larger than a share is solved in bands, and comes out as if it had been solved at once."""

import math
import random
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tmask
from tmask.errors import FileFormatError
from tmask.files import stretches
from tmask.files.bands import Band
from tmask.files.layers import Layer
from tmask.files.masks import write_masks
from tmask.files.opening import open_weights
from tmask.files.packed_mask import PackedMask
from tmask.sharding import checking
from tmask.sharding.checking import check_record
from tmask.sharding.joining import bands_by_weight, join
from tmask.sharding.merging import find_shards, finish, open_shards

pytest.importorskip("joblib")

# What a band is of: odd sizes, kernels, groups, experts, a stack of stacks, and a layer that stays whole.
SHAPES = {
    "odd.weight": (47, 21),
    "conv.weight": (22, 9, 3, 3),
    "grouped.weight": (24, 5, 3, 3),
    "experts.weight": (3, 30, 18),
    "nested.experts.weight": (2, 2, 17, 12),
    "small.weight": (8, 4),
}
KINDS = {
    "groups": {"grouped*": 2},
    "layouts": {"*experts*": "stack", "conv*": "convolution", "grouped*": "convolution"},
}
OPTIONS = ["--groups", "grouped*=2", "--layout", "*experts*=stack", "--layout", "conv*=convolution",
           "--layout", "grouped*=convolution"]  # fmt: skip


@pytest.fixture
def weights(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "model.safetensors"
    # Few different values: ties are where a mask could depend on what else is solved with a block.
    save_file({name: rng.integers(-3, 4, shape).astype(np.float32) for name, shape in SHAPES.items()}, path)
    return path


def solve(weights, output, **options):
    return tmask.solve_file(weights, "2:4", weights.parent / output, **KINDS, backend="threading", **options)


def same(records, expected):
    """Masks bit for bit; sums are added in another order."""
    assert records.keys() == expected.keys()
    for name, record in records.items():
        np.testing.assert_array_equal(record.packed.bits, expected[name].packed.bits)
        for field in ("objective", "dual_bound", "total"):
            assert math.isclose(getattr(record, field), getattr(expected[name], field), rel_tol=1e-13)
        own, other = (
            {key: value for key, value in one.metadata().items()
             if key not in ("seconds", "job", "objective", "dual_bound", "total")}
            for one in (record, expected[name])
        )  # fmt: skip
        assert own == other


@pytest.mark.parametrize("keep_zeros", [False, True])
@pytest.mark.parametrize("shards", [2, 5, 9, 40])
def test_bands_joined_are_the_masks_of_a_single_run(weights, shards, keep_zeros):
    whole = tmask.read_masks(solve(weights, "whole.safetensors", keep_zeros=keep_zeros))
    index = solve(weights, "m.safetensors", shards=shards, keep_zeros=keep_zeros)
    records = tmask.read_masks(index)
    same(records, whole)
    assert index.with_name("m-joined.safetensors").exists() == (shards > 2)
    source = open_weights(weights)
    for record in records.values():
        assert check_record(record, source)["problem"] == ""


def test_a_solver_for_small_blocks_alone(weights):
    whole = tmask.read_masks(solve(weights, "whole.safetensors", solver="patterns"))
    same(tmask.read_masks(solve(weights, "m.safetensors", solver="patterns", shards=7)), whole)
    assert {record.solver for record in whole.values()} > {"patterns"}


def test_half_precision(weights):
    save_file({name: weight.astype(np.float16) for name, weight in load_file(weights).items()}, weights)
    whole = tmask.read_masks(solve(weights, "whole.safetensors"))
    same(tmask.read_masks(solve(weights, "m.safetensors", shards=7)), whole)


def test_a_shard_of_bands_killed_at_random_is_run_again(weights):
    whole = tmask.read_masks(solve(weights, "whole.safetensors"))
    place = random.Random(1)
    for shard in ("1/3", "2/3", "3/3"):
        command = [sys.executable, "-m", "tmask", "solve", weights, "-p", "2:4", "-o", weights.parent / "m.safetensors",
                   "--shard", shard, *OPTIONS]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(place.uniform(0.2, 1.5))
        process.kill()
        process.wait()
    same(tmask.read_masks(solve(weights, "m.safetensors", shards=3)), whole)


def test_bands_through_dask(weights):
    joblib, distributed = pytest.importorskip("joblib"), pytest.importorskip("distributed")
    whole = tmask.read_masks(solve(weights, "whole.safetensors"))
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        index = tmask.solve_file(weights, "2:4", weights.parent / "m.safetensors", shards=6, **KINDS)
    same(tmask.read_masks(index), whole)


@pytest.fixture
def shards(weights):
    """The shards of a run, before they are merged."""
    solve(weights, "m.safetensors", shards=5).unlink()
    return open_shards(find_shards(weights.parent / "m.safetensors"))


def test_a_band_is_checked_by_its_own_weights(weights, shards):
    source = open_weights(weights)
    bands = [record for records in shards.values() for record in records.values() if record.band is not None]
    assert bands
    for record in bands:
        assert check_record(record, source)["verdict"] == "optimal"
    changed = load_file(weights)
    changed[bands[0].band.of].reshape(-1)[bands[0].band.entries[0]] += 1
    save_file(changed, weights)
    problems = [check_record(record, open_weights(weights))["problem"] for record in bands]
    assert "other weights" in problems[0]
    assert not any(problems[1:])


@pytest.mark.parametrize("at_once", [64, 500])
def test_a_layer_is_judged_in_bands_as_at_once(weights, monkeypatch, at_once):
    source = open_weights(weights)
    records = tmask.read_masks(solve(weights, "whole.safetensors"))
    broken = records["conv.weight"].mask
    broken[20:22] = True  # in the last tiles, beyond the first band
    kept = float(np.abs(load_file(weights)["conv.weight"])[broken].sum())
    records["broken"] = replace(records["conv.weight"], packed=PackedMask.of(broken), objective=kept, dual_bound=None)
    expected = {name: check_record(record, source) for name, record in records.items()}
    monkeypatch.setattr(checking, "AT_ONCE", at_once)
    monkeypatch.setattr(stretches, "AT_ONCE", at_once)
    for name, record in records.items():
        found = check_record(record, source)
        for field, value in expected[name].items():
            assert found[field] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value)
    assert "the block at rows 20-21" in expected["broken"]["problem"]
    other = replace(records["odd.weight"], weights_sha256="0" * 64)
    assert "other weights" in check_record(other, source)["problem"]


def test_bands_that_lack_one_or_are_cut_through_a_tile_are_not_joined(weights, shards):
    source = open_weights(weights)
    held = next(held for held in bands_by_weight(shards).values() if len(held) > 1)
    with pytest.raises(FileFormatError, match="do not make it up"):
        join(held[:-1], source)
    with pytest.raises(FileFormatError, match="do not make it up"):
        join(held[1:], source)
    layer = Layer("odd.weight", (47, 21), "float32")
    weight = load_file(weights)["odd.weight"]
    path = weights.parent / "cut.safetensors"
    records = []
    for first, last in (0, 6), (6, 47):
        part = layer.cut(first, last)
        solution = tmask.solve(weight[first:last], "2:4")
        known = next(iter(next(iter(shards.values())).values()))
        packed = type(known.packed).of(solution.mask)
        records.append(replace(known, name=part.name, packed=packed, groups=1, layout="matrix", band=part.band))
    write_masks(path, records)
    with pytest.raises(FileFormatError, match="do not make it up"):
        finish(weights.parent / "other.safetensors", {path: tmask.read_masks(path)}, source, False)
    assert not (weights.parent / "other.safetensors.index.json").exists()


@pytest.mark.parametrize(
    ("whole", "groups", "layout", "first", "last"),
    [
        ((8, 4), 1, "matrix", 4, 4),
        ((8, 4), 1, "matrix", -4, 4),
        ((8, 4), 1, "matrix", 4, 9),
        ((2, 8, 4), 1, "stack", 4, 12),
        ((8, 4, 3, 3), 2, "convolution", 2, 6),
    ],
)
def test_lines_that_are_no_band(whole, groups, layout, first, last):
    with pytest.raises(ValueError, match="lines"):
        Band("w", whole, groups, layout, first, last)


def test_a_merged_folder_is_read_lazily(weights, monkeypatch):
    index = solve(weights, "m.safetensors", shards=5)
    masks = tmask.read_masks(weights.parent)
    assert list(masks) == list(tmask.read_masks(index))
    joined = index.with_name("m-joined.safetensors")
    data = joined.read_bytes()
    joined.write_bytes(data[:-8] + b"\xff" * 8)  # of the last mask alone
    bad = 0
    for name in masks:
        try:
            bad += not np.array_equal(masks[name].mask, tmask.read_masks(index)[name].mask)
        except FileFormatError:
            bad += 1
    assert bad <= 1
    with pytest.raises(KeyError):
        masks["nobody"]
    other = index.with_name("n.safetensors.index.json")
    other.write_text('{"weight_map": {"nobody": "m-joined.safetensors"}}')
    with pytest.raises(FileFormatError, match="holds no tensor 'nobody'"):
        tmask.read_masks(other)
    with pytest.raises(FileFormatError, match="2 indexes"):
        tmask.read_masks(weights.parent)


def test_what_takes_masks_takes_merged_ones(tmp_path):
    torch = pytest.importorskip("torch")
    from tmask.nn import sparsify  # torch may be missing where this file is collected

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 24), torch.nn.Linear(24, 8))
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    index = tmask.solve_file(tmp_path / "model.safetensors", "2:4", tmp_path / "m.safetensors", shards=4,
                             backend="threading")  # fmt: skip
    sparsify(model, "2:4", masks=tmask.read_masks(index))
    for name, layer in ("0.weight", model[0]), ("1.weight", model[1]):
        np.testing.assert_array_equal((layer.weight != 0).numpy(), tmask.solve(state[name], "2:4").mask)

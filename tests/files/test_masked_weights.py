"""Masked copies of weight files: what is not pruned is the same to the bit, and nothing is masked by accident."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import tmask
from tmask.files import safetensors_files, stretches
from tmask.files.masked_weights import write_masked_weights
from tmask.files.opening import open_weights
from tmask.files.packed_mask import PackedMask
from tmask.files.tensors import from_bytes

WEIGHTS = {
    "w": -np.arange(1, 17, dtype=np.float32).reshape(4, 4),
    "h": np.full((2, 4), -0.0, np.float16),
    "steps": np.array(3, np.int64),
    "none": np.zeros((0, 3), np.float32),
    "flags": np.array([True, False, True]),
}
MASK = np.eye(4, dtype=bool)


@pytest.fixture
def source(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    return open_weights(tmp_path / "w.safetensors")


def test_other_tensors_and_shapes_stay(source, tmp_path):
    write_masked_weights(tmp_path / "out.safetensors", source, {"w": PackedMask.of(MASK)})
    written = load_file(tmp_path / "out.safetensors")
    assert set(written) == set(WEIGHTS)
    for name, array in WEIGHTS.items():
        assert (written[name].dtype, written[name].shape) == (array.dtype, array.shape)
        if name != "w":
            assert written[name].tobytes() == array.tobytes()
    np.testing.assert_array_equal(written["w"], WEIGHTS["w"] * MASK)
    assert not np.signbit(written["w"][~MASK]).any()
    with safe_open(tmp_path / "out.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16]), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
    ),
    st.randoms(use_true_random=False),
)
def test_every_bit_pattern_of_every_small_float(tmp_path_factory, bits, random):
    folder = tmp_path_factory.mktemp("bits")
    dtype = "bfloat16" if bits.itemsize == 2 else "float8_e5m2"
    mask = np.array([random.random() < 0.5 for _ in range(bits.size)], bool).reshape(bits.shape)
    listing = {"a": (dtype, bits.shape), "b": (dtype, bits.shape)}
    tensor = from_bytes(bits.tobytes(), dtype, bits.shape)
    safetensors_files.write_safetensors(folder / "a.safetensors", listing, lambda name: tensor, {})
    write_masked_weights(folder / "b.safetensors", open_weights(folder / "a.safetensors"), {"a": PackedMask.of(mask)})
    written = open_weights(folder / "b.safetensors")
    assert dict(written.dtypes) == {"a": dtype, "b": dtype}
    np.testing.assert_array_equal(written.read("a").bits, np.where(mask, bits, 0))
    np.testing.assert_array_equal(written.read("b").bits, bits)


@pytest.mark.parametrize(
    ("masks", "says"),
    [
        ({"w": np.ones(4, bool)}, r"shape \(4,\), but the weight has \(4, 4\)"),
        ({"w": MASK[:, :1]}, r"shape \(4, 1\)"),
        ({"v": MASK}, "mask for 'v'"),
    ],
)
def test_masks_that_do_not_fit(source, tmp_path, masks, says):
    with pytest.raises(tmask.FileFormatError, match=says):
        write_masked_weights(
            tmp_path / "out.safetensors", source, {name: PackedMask.of(mask) for name, mask in masks.items()}
        )
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_what_safetensors_cannot_hold_is_refused_before_reading(tmp_path, monkeypatch):
    for name, array in [("v", np.zeros(2, np.complex128)), ("__metadata__", np.zeros(2))]:
        np.savez(tmp_path / "w.npz", **{name: array})
        with pytest.raises(tmask.FileFormatError, match=name):
            write_masked_weights(tmp_path / "out.safetensors", open_weights(tmp_path / "w.npz"), {})
        assert os.listdir(tmp_path) == ["w.npz"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "Input/output error"), MemoryError()])
def test_a_failure_half_way_leaves_the_old_file(source, tmp_path, error):
    out = tmp_path / "out.safetensors"
    out.write_text("before")
    seen = []
    load = source.load

    def failing(name):
        seen.append(name)
        if len(seen) == 3:
            raise error
        return load(name)

    broken = type(source)(source.path, source.shapes, source.dtypes, failing)
    with pytest.raises((KeyboardInterrupt, tmask.FileFormatError)):
        write_masked_weights(out, broken, {"w": PackedMask.of(MASK)}, overwrite=True)
    assert len(seen) == 3
    assert out.read_text() == "before"
    assert sorted(os.listdir(tmp_path)) == ["out.safetensors", "w.safetensors"]


def test_a_source_that_changes_is_noticed(source, tmp_path):
    other = from_bytes(bytes(4), "float32", (1, 1))
    broken = type(source)(source.path, source.shapes, source.dtypes, lambda name: other)
    with pytest.raises(tmask.FileFormatError, match="changed while"):
        write_masked_weights(tmp_path / "out.safetensors", broken, {})
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_a_file_may_replace_its_source(source):
    write_masked_weights(source.path, source, {"w": PackedMask.of(MASK)}, overwrite=True)
    np.testing.assert_array_equal(load_file(source.path)["w"], WEIGHTS["w"] * MASK)
    np.testing.assert_array_equal(load_file(source.path)["flags"], WEIGHTS["flags"])


def test_tensors_start_where_their_items_may(source, tmp_path):
    write_masked_weights(tmp_path / "out.safetensors", source, {})
    data = (tmp_path / "out.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    assert size % 8 == 0
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % WEIGHTS[name].itemsize == 0


def test_masks_are_applied_a_part_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(stretches, "AT_ONCE", 7)
    rng = np.random.default_rng(0)
    weight, mask = rng.standard_normal((9, 5)).astype(np.float32), rng.random((9, 5)) < 0.5
    save_file({"w": weight}, tmp_path / "w.safetensors")
    masks = {"w": PackedMask.of(mask)}
    write_masked_weights(tmp_path / "out.safetensors", open_weights(tmp_path / "w.safetensors"), masks)
    assert load_file(tmp_path / "out.safetensors")["w"].tobytes() == np.where(mask, weight, 0).tobytes()

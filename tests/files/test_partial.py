"""Finished layers of a long run: taken over only as they were made, and by the same job from the same weights."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import save_file

from tmask import Pattern
from tmask.errors import FileFormatError
from tmask.files.masks import MaskRecord, write_masks
from tmask.files.packed_mask import PackedMask
from tmask.files.partial import PartialStore

quick = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
RECORD = MaskRecord(
    name="layer.weight", packed=PackedMask.of(np.eye(4, dtype=bool)), pattern=Pattern(2, 4),
    groups=1, solver="patterns", settings="seed=1", objective=1.5, dual_bound=1.75, total=3.0, status="optimal",
    seconds=0.1, weights_sha256="a" * 64, job="2:4 auto",
)  # fmt: skip
NAMES = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda name: name != "__metadata__")


@pytest.fixture
def store(tmp_path):
    return PartialStore(tmp_path / "m.safetensors")


def get(store, name=RECORD.name, job=RECORD.job, weights_sha256=RECORD.weights_sha256):
    return store.get(name, job, weights_sha256)


def same(a, b):
    assert a.name == b.name
    assert a.metadata() == b.metadata()
    assert a.mask.dtype == b.mask.dtype == np.bool_
    np.testing.assert_array_equal(a.mask, b.mask)


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=4, max_side=6)), NAMES, st.text(max_size=8))
@quick
def test_a_kept_layer_comes_back_whatever_its_name(tmp_path, mask, name, job):
    store = PartialStore(tmp_path / "m.safetensors")
    record = dataclasses.replace(RECORD, packed=PackedMask.of(mask), name=name, job=job)
    store.put(record)
    same(get(PartialStore(tmp_path / "m.safetensors"), name, job), record)
    assert os.listdir(tmp_path) == ["m.safetensors.partial"]
    store.discard()
    assert os.listdir(tmp_path) == []


def test_layers_do_not_mix(store):
    masks = [PackedMask.of(np.eye(4, 4 + i, dtype=bool)) for i in range(5)]
    records = [dataclasses.replace(RECORD, name=f"layer.{i}", packed=mask) for i, mask in enumerate(masks)]
    for record in records:
        store.put(record)
    for record in records:
        same(get(store, record.name), record)
    assert get(store, "layer.5") is None


def test_the_last_one_put_counts(store):
    store.put(RECORD)
    store.put(dataclasses.replace(RECORD, packed=PackedMask.of(~RECORD.mask)))
    np.testing.assert_array_equal(get(store).mask, ~RECORD.mask)
    assert len(os.listdir(store.folder)) == 1


@pytest.mark.parametrize("other", [{"job": "4:8 auto"}, {"job": ""}, {"weights_sha256": "b" * 64}, {"name": "other"}])
def test_another_job_or_other_weights_are_computed_anew(store, other):
    assert get(store) is None
    store.put(RECORD)
    assert get(store, **other) is None
    assert get(store) is not None  # and the file is still there for its own job


def test_a_file_of_another_layer_is_not_taken_for_this_one(store):
    store.put(dataclasses.replace(RECORD, name="other"))
    (kept,) = store.folder.iterdir()
    kept.rename(store._path(RECORD.name))
    assert get(store) is None


@given(st.data())
@quick
def test_a_damaged_layer_is_computed_anew(tmp_path, data):
    store = PartialStore(tmp_path / "m.safetensors")
    store.put(RECORD)
    path = store._path(RECORD.name)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert get(store) is None
    store.put(RECORD)
    same(get(store), RECORD)


def test_something_else_under_the_name_is_ignored(store):
    store.folder.mkdir()
    path = store._path(RECORD.name)
    save_file({RECORD.name: np.ones(2, np.uint8)}, path)
    assert get(store) is None
    path.unlink()
    path.mkdir()
    assert get(store) is None


def test_outputs_have_folders_of_their_own(tmp_path, store):
    store.put(RECORD)
    other = PartialStore(tmp_path / "n.safetensors")
    assert get(other) is None
    other.put(RECORD)
    store.discard()
    assert os.listdir(tmp_path) == ["n.safetensors.partial"]
    assert get(other) is not None


def test_discarding_leaves_the_output(tmp_path, store):
    store.discard()  # nothing was ever put
    store.put(RECORD)
    write_masks(tmp_path / "m.safetensors", [RECORD])
    store.discard()
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_half_a_character_in_a_name_is_refused_not_kept(store):
    name = "layer.\ud800"
    assert get(store, name) is None
    with pytest.raises(FileFormatError, match=r"'layer\.\\ud800' cannot be in a safetensors file"):
        store.put(dataclasses.replace(RECORD, name=name))
    assert os.listdir(store.folder) == []


def test_one_flipped_bit_is_noticed(store):
    """Wherever it is: what comes back is the layer as it was, or nothing, and then it is named."""
    store.put(RECORD)
    (path,) = store.folder.iterdir()
    whole = path.read_bytes()
    lost = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        store.damaged.clear()
        if (found := get(store)) is None:
            assert store.damaged == [RECORD.name]
            lost += 1
        else:
            same(found, RECORD)
    assert lost > len(whole) / 2
    path.write_bytes(whole)
    same(get(store), RECORD)

"""Files with flipped or lost bytes: read for what they are, or refused with a `FileFormatError`, nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

import tmask
from tmask.files.masks import MaskRecord, read_masks, write_masks
from tmask.files.opening import open_weights
from tmask.files.packed_mask import PackedMask
from tmask.files.partial import PartialStore

drawn = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
ARRAYS = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.arange(3, dtype=np.float16)}
RECORD = MaskRecord(
    name="w", packed=PackedMask.of(np.arange(20).reshape(4, 5) % 3 == 0), pattern=tmask.Pattern(2, 4),
    groups=1, solver="patterns", settings="", objective=1.5, dual_bound=None, total=3.0, status="optimal", seconds=0.1,
    weights_sha256="0" * 64, job="job",
)  # fmt: skip


def contents(kind, folder):
    buffer = io.BytesIO()
    if kind == "safetensors":
        return save(ARRAYS)
    if kind == "npz":
        np.savez(buffer, **ARRAYS)
    elif kind == "compressed":
        np.savez_compressed(buffer, **ARRAYS)
    elif kind == "npy":
        np.save(buffer, ARRAYS["w"])
    elif kind == "pt":
        torch = pytest.importorskip("torch")
        torch.save({name: torch.from_numpy(array) for name, array in ARRAYS.items()}, buffer)
    elif kind == "masks":
        write_masks(folder / "m", [RECORD], overwrite=True)
        return (folder / "m").read_bytes()
    return buffer.getvalue()


def read_all(path):
    file = open_weights(path)
    return {name: file.read(name) for name in file.names}


KINDS = ["safetensors", "npz", "compressed", "npy", "pt", "masks"]


def damaged(tmp_path, kind, change):
    path = tmp_path / f"damaged.{'npz' if kind == 'compressed' else kind}"
    path.write_bytes(change(contents(kind, tmp_path)))
    return (lambda: read_masks(path)) if kind == "masks" else (lambda: read_all(path))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@drawn
def test_flipped_bytes(tmp_path, kind, data):
    def flip(content):
        content = bytearray(content)
        places = st.integers(0, len(content) - 1)
        for place in data.draw(st.lists(places, min_size=1, max_size=4)):
            content[place] ^= data.draw(st.integers(1, 255))
        return content

    with contextlib.suppress(tmask.FileFormatError):
        damaged(tmp_path, kind, flip)()


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@drawn
def test_lost_bytes(tmp_path, kind, data):
    read = damaged(tmp_path, kind, lambda content: content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(tmask.FileFormatError, match="damaged"):
        read()


@pytest.mark.parametrize("kind", ["npz", "compressed"])
def test_flipped_weights_are_found_by_the_checksum(tmp_path, kind):
    """In the last bytes of an array, where only a reader that goes on to the end notices."""
    data = contents(kind, tmp_path)
    directory = data.index(b"PK\x01\x02")
    refused = 0
    for place in range(directory - 6, directory):  # the array that comes last is six bytes long
        flipped = data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]
        try:
            read = damaged(tmp_path, kind, lambda _, flipped=flipped: flipped)()
        except tmask.FileFormatError:
            refused += 1
            continue
        for name, array in ARRAYS.items():  # a deflated stream ends in a few bits that mean nothing
            np.testing.assert_array_equal(read[name].values(), array)
    assert refused >= 5


@pytest.mark.parametrize("size", [100, 5000, 300_000])
def test_a_wrong_checksum_is_found_at_any_size(tmp_path, size):
    np.savez_compressed(tmp_path / "w.npz", w=np.random.default_rng(0).standard_normal(size))
    data = bytearray((tmp_path / "w.npz").read_bytes())
    data[data.rindex(b"PK\x01\x02") + 16] ^= 1  # the checksum in the archive's directory
    (tmp_path / "w.npz").write_bytes(data)
    with pytest.raises(tmask.FileFormatError):
        read_all(tmp_path / "w.npz")


@pytest.mark.parametrize("field", [key for key in RECORD.metadata()])
@pytest.mark.parametrize("value", [None, True, "x", -1, [], {}, [1e9], [-4, -5], "gone"])
def test_descriptions_of_the_wrong_kind(tmp_path, field, value):
    layer = RECORD.metadata()
    original = layer[field]
    if value == "gone":
        del layer[field]
    else:
        layer[field] = value
    packed = np.packbits(RECORD.mask.ravel(), bitorder="little")
    metadata = {"format": "tmask-masks", "format_version": "1", "layers": json.dumps({"w": layer})}
    save_file({"w": packed}, tmp_path / "m", metadata)
    try:
        (read,) = read_masks(tmp_path / "m").values()
    except tmask.FileFormatError:
        return
    if value == "gone":
        assert field == "layout"  # files of before there were layouts have none
        assert read.layout == original
        return
    assert type(value) is type(original) or isinstance(value, int) or value is None
    assert read.metadata()[field] == value


@pytest.mark.parametrize(
    "layers", ["[]", "{}", '{"v": {}}', '{"w": 3}', "3", "[" * 100_000, "", '{"w": {"shape": []}}']
)
def test_descriptions_that_do_not_describe_the_masks(tmp_path, layers):
    metadata = {"format": "tmask-masks", "format_version": "1", "layers": layers}
    save_file({"w": np.zeros(3, np.uint8)}, tmp_path / "m", metadata)
    with pytest.raises(tmask.FileFormatError):
        read_masks(tmp_path / "m")


def test_bits_beyond_the_mask_are_refused(tmp_path):
    write_masks(tmp_path / "m", [RECORD])
    data = bytearray((tmp_path / "m").read_bytes())
    data[-1] |= 0x80
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(tmask.FileFormatError, match="beyond its last entry"):
        read_masks(tmp_path / "m")


def test_paths_that_are_no_files(tmp_path):
    for path in (tmp_path, tmp_path / "none", tmp_path / ("x" * 300)):
        with pytest.raises(tmask.FileFormatError):
            read_masks(path)


def test_two_masks_of_one_name(tmp_path):
    with pytest.raises(tmask.InvalidProblemError, match="two masks for 'w'"):
        write_masks(tmp_path / "m", [RECORD, RECORD])
    assert list(tmp_path.iterdir()) == []


def test_the_partial_folder_keeps_what_is_not_its_own(tmp_path):
    store = PartialStore(tmp_path / "m")
    store.folder.mkdir()
    (store.folder / "notes.txt").write_text("mine")
    store.put(RECORD)
    store.put(dataclasses.replace(RECORD, name="v"))
    (store.folder / ".tmask-0123456789abcdef.safetensors").touch()  # what a killed process leaves
    assert store.get("w", "job", "0" * 64) is not None
    store.discard()
    assert [path.name for path in store.folder.iterdir()] == ["notes.txt"]
    (store.folder / "notes.txt").unlink()
    store.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_partial_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "m.partial").write_text("mine")
    store = PartialStore(tmp_path / "m")
    assert store.get("w", "job", "0" * 64) is None
    with pytest.raises(tmask.OutputError, match=r"m\.partial"):
        store.put(RECORD)
    store.discard()
    assert (tmp_path / "m.partial").read_text() == "mine"

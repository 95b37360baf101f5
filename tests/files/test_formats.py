"""Weight files at the edges of their formats: odd shapes and dtypes, byte orders, files that are something else."""

from __future__ import annotations

import json
import struct
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

import tmask
from tmask.files import numpy_files, torch_files
from tmask.files.opening import open_weights
from tmask.files.tensors import CODES, from_numpy

RNG = np.random.default_rng(0)
ARRAYS = {
    "w16": RNG.standard_normal((4, 6)).astype(np.float16),
    "w32": RNG.standard_normal((3, 4, 2, 2)).astype(np.float32),
    "w64": RNG.standard_normal((5, 5)),
    "bias": RNG.standard_normal(4).astype(np.float32),
    "scalar": np.array(7, np.int64),
    "empty": np.zeros((0, 4), np.float32),
    "flags": np.array([True, False]),
}
numpy_arrays = hnp.arrays(
    st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.uint16, np.int64, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


def raw_safetensors(path, **tensors):
    """A file of (code, shape, bytes), written here without the library."""
    header, data = {}, b""
    for name, (code, shape, content) in tensors.items():
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def check_arrays(file, arrays):
    assert set(file.names) == set(arrays)
    for name, array in arrays.items():
        tensor = file.read(name)
        assert file.shapes[name] == tensor.shape == array.shape
        assert file.dtypes[name] == tensor.dtype == array.dtype.name
        assert tensor.bits.tobytes() == array.tobytes()
        if array.dtype.kind == "f":
            np.testing.assert_array_equal(tensor.values(), array)
            assert tensor.values().dtype == array.dtype
            assert tensor.values().shape == array.shape


def fails(path, *texts):
    with pytest.raises(tmask.FileFormatError) as caught:
        open_weights(path)
    for text in (path.name, *texts):
        assert text in str(caught.value)


def test_safetensors(tmp_path):
    save_file(ARRAYS, tmp_path / "a.safetensors", {"format": "pt"})
    check_arrays(open_weights(tmp_path / "a.safetensors"), ARRAYS)
    check_arrays(open_weights(str(tmp_path)), ARRAYS)


def test_npz(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    check_arrays(open_weights(tmp_path / "a.npz"), ARRAYS)
    np.savez_compressed(tmp_path / "b.NPZ", **ARRAYS)  # numpy appends .npz
    check_arrays(open_weights(tmp_path / "b.NPZ.npz"), ARRAYS)


@pytest.mark.parametrize("array", ARRAYS.values(), ids=list(ARRAYS))
def test_npy_is_named_by_its_file(tmp_path, array):
    np.save(tmp_path / "layer.npy", array)
    check_arrays(open_weights(tmp_path / "layer.npy"), {"layer": array})


def test_endings_are_read_in_either_case(tmp_path):
    with (tmp_path / "W.NPY").open("wb") as file:
        np.save(file, ARRAYS["w32"])
    check_arrays(open_weights(tmp_path / "W.NPY"), {"W": ARRAYS["w32"]})


def test_byte_order_and_memory_order_of_numpy_do_not_show(tmp_path):
    array = np.arange(12.0).reshape(3, 4)
    for name, stored in [("big", array.astype(">f8")), ("fortran", np.asfortranarray(array))]:
        np.save(tmp_path / f"{name}.npy", stored)
        check_arrays(open_weights(tmp_path / f"{name}.npy"), {name: array})


@given(arrays=st.dictionaries(st.from_regex(r"[a-z.]{1,8}_", fullmatch=True), numpy_arrays, min_size=1, max_size=4))
def test_round_trips_drawn(tmp_path_factory, arrays):
    folder = tmp_path_factory.mktemp("drawn")
    save_file(arrays, folder / "a.safetensors")
    np.savez(folder / "a.npz", **arrays)
    check_arrays(open_weights(folder / "a.safetensors"), arrays)
    check_arrays(open_weights(folder / "a.npz"), arrays)


def test_bfloat16_needs_neither_torch_nor_ml_dtypes(tmp_path, monkeypatch):
    for module in ("torch", "ml_dtypes"):
        monkeypatch.setitem(sys.modules, module, None)
    values = np.array([[1.0, -2.5, 0.0], [-0.0, 2.0**-133, np.inf]], np.float32)
    bits = (values.view(np.uint32) >> 16).astype("<u2")
    path = raw_safetensors(
        tmp_path / "a.safetensors", w=("BF16", [2, 3], bits.tobytes()), s=("BF16", [], bits.tobytes()[:2])
    )
    file = open_weights(path)
    assert file.dtypes["w"] == "bfloat16"
    read = file.read("w").values()
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read.view(np.uint32), values.view(np.uint32))
    assert file.read("s").values().shape == ()
    assert file.read("s").values() == 1


@pytest.mark.parametrize(("code", "num_bytes"), [("F8_E4M3", 16), ("F8_E8M0", 16), ("C64", 128), ("I32", 64)])
def test_other_dtypes_are_listed_and_hold_no_weights(tmp_path, code, num_bytes):
    file = open_weights(raw_safetensors(tmp_path / "a.safetensors", w=(code, [4, 4], bytes(num_bytes))))
    assert CODES[file.dtypes["w"]] == code
    with pytest.raises(tmask.FileFormatError, match="holds no weights"):
        file.read("w").values()


def test_items_that_share_a_byte_are_listed_but_not_read(tmp_path):
    file = open_weights(raw_safetensors(tmp_path / "a.safetensors", w=("F4", [4, 4], bytes(8))))
    assert dict(file.dtypes) == {"w": "f4"}
    with pytest.raises(tmask.FileFormatError, match="no whole bytes"):
        file.read("w")


def test_files_that_are_not_what_they_are_called(tmp_path):
    fails(tmp_path / "none.npz", "does not exist")
    fails(tmp_path / ("x" * 300 + ".npz"), "cannot be read")
    (tmp_path / "weights.txt").write_text("1 2 3")
    fails(tmp_path / "weights.txt", "ending", ".safetensors", ".npz", ".pt")
    np.save(tmp_path / "a.npy", ARRAYS["w32"])
    (tmp_path / "a.npy").rename(tmp_path / "a.safetensors")
    fails(tmp_path / "a.safetensors", ".npy file: rename")
    np.savez(tmp_path / "b.npz", **ARRAYS)
    (tmp_path / "b.npz").rename(tmp_path / "b.npy")
    fails(tmp_path / "b.npy", ".npz or a torch file (.pt): rename")
    (tmp_path / "c.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    fails(tmp_path / "c.safetensors", "git lfs pull")
    for suffix in ("safetensors", "npz", "npy"):
        (tmp_path / f"d.{suffix}").touch()
        fails(tmp_path / f"d.{suffix}", "it is empty")


def test_folders_without_one_model(tmp_path):
    fails(tmp_path, "0 safetensors files")
    for name in "ab":
        save_file({"w": ARRAYS["w32"]}, tmp_path / f"{name}.safetensors")
    fails(tmp_path, "2 safetensors files", "name one")


def test_opening_reads_headers_alone(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    np.save(tmp_path / "a.npy", ARRAYS["w32"])
    monkeypatch.setattr(numpy_files, "_array", lambda stream: pytest.fail("contents read"))
    for name in ("a.npz", "a.npy"):
        assert open_weights(tmp_path / name).names


def test_names_that_are_not_there(tmp_path):
    save_file(ARRAYS, tmp_path / "a.safetensors")
    with pytest.raises(tmask.FileFormatError, match="no tensor 'w33'; did you mean w32"):
        open_weights(tmp_path / "a.safetensors").read("w33")


def test_a_file_that_shrinks_after_opening(tmp_path):
    for name, save in [("a.safetensors", lambda p: save_file(ARRAYS, p)), ("a.npz", lambda p: np.savez(p, **ARRAYS))]:
        save(tmp_path / name)
        file = open_weights(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-200])
        with pytest.raises(tmask.FileFormatError, match="cannot be read"):
            assert [file.read(tensor) for tensor in file.names]


def test_texts_and_records_are_no_tensors():
    for array in (np.array(["a"]), np.zeros(2, [("x", "f4")]), np.zeros(2, np.complex128)):
        with pytest.raises(ValueError, match="dtype"):
            from_numpy(array)


def test_without_torch_a_torch_file_gives_the_pip_line(tmp_path, monkeypatch):
    (tmp_path / "a.pt").write_bytes(b"x")
    monkeypatch.setattr(torch_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(tmask.SolverUnavailableError, match=r'pip install "tmask\[torch\]"'):
        open_weights(tmp_path / "a.pt")

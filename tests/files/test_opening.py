"""Weight files of every format come back as they were written, and what is no weight file is refused, not run."""

from __future__ import annotations

import io
import json
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import save_file

from tmask.errors import FileFormatError
from tmask.files.opening import open_weights
from tmask.files.tensors import Tensor

FLOATS = arrays(st.sampled_from([np.float16, np.float32, np.float64]), array_shapes(min_dims=1, max_dims=4, max_side=5))
quick = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def same_bits(a, b):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes()


@given(FLOATS, FLOATS)
@quick
def test_safetensors_npz_and_npy_round_trip(tmp_path, first, second):
    save_file({"a.weight": first, "b": second}, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", **{"a.weight": first, "b": second})
    np.save(tmp_path / "a.weight.npy", first)
    for name in ("w.safetensors", "w.npz"):
        file = open_weights(tmp_path / name)
        assert set(file.names) == {"a.weight", "b"}
        assert file.shapes["b"] == second.shape
        assert file.dtypes["a.weight"] == first.dtype.name
        same_bits(file.read("a.weight").values(), first)
        same_bits(file.read("b").values(), second)
    same_bits(open_weights(tmp_path / "a.weight.npy").read("a.weight").values(), first)


def test_bfloat16_is_read_without_torch(tmp_path):
    """1.5 is 0x3FC0, -2 is 0xC000, the largest subnormal 0x007F."""
    header = json.dumps({"w": {"dtype": "BF16", "shape": [1, 3], "data_offsets": [0, 6]}}).encode()
    data = struct.pack("<Q", len(header)) + header + struct.pack("<3H", 0x3FC0, 0xC000, 0x007F)
    (tmp_path / "w.safetensors").write_bytes(data)
    file = open_weights(tmp_path / "w.safetensors")
    assert file.dtypes["w"] == "bfloat16"
    values = file.read("w").values()
    assert values.dtype == np.float32
    assert values.tolist() == [[1.5, -2.0, 127 * 2.0**-133]]


def test_torch_files_round_trip(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {
        "a": torch.randn(3, 4),
        "h": torch.randn(2, 2).half(),
        "b": torch.randn(4, 2).bfloat16(),
        "n": torch.arange(3),
        "s": torch.tensor(1.0),
    }
    for name, content in [
        ("w.pt", tensors),
        ("w.pth", {"state_dict": tensors}),
        ("w.bin", {"model": tensors, "epoch": 3}),
    ]:
        torch.save(content, tmp_path / name)
        file = open_weights(tmp_path / name)
        assert set(file.names) == set(tensors)
        for key in ("a", "h", "b"):
            np.testing.assert_array_equal(file.read(key).values(), tensors[key].float().numpy())
        assert file.dtypes["b"] == "bfloat16"
    torch.save(torch.ones(2, 2), tmp_path / "one.pt")
    assert open_weights(tmp_path / "one.pt").names == ("weight",)


def test_the_same_tensor_has_the_same_hash_in_every_format(tmp_path):
    torch = pytest.importorskip("torch")
    array = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    save_file({"w": array}, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", w=np.asfortranarray(array))
    torch.save({"w": torch.from_numpy(array)}, tmp_path / "a.pt")
    hashes = {open_weights(tmp_path / f"a.{end}").read("w").sha256() for end in ("safetensors", "npz", "pt")}
    assert len(hashes) == 1
    save_file({"w": array.reshape(4, 3)}, tmp_path / "b.safetensors")
    assert open_weights(tmp_path / "b.safetensors").read("w").sha256() not in hashes


def test_shards_are_one_file(tmp_path):
    save_file({"a": np.ones((2, 2), np.float32)}, tmp_path / "m-1.safetensors")
    save_file({"b": np.zeros((3, 2), np.float32)}, tmp_path / "m-2.safetensors")
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"b": "m-2.safetensors", "a": "m-1.safetensors"}}))
    for path in (index, tmp_path):
        file = open_weights(path)
        assert file.names == ("b", "a")
        assert file.read("b").shape == (3, 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no json", "is no safetensors index"),
        ("[]", "is no safetensors index"),
        ('{"weight_map": {"a": "none.safetensors"}}', "'none.safetensors' is missing"),
        ('{"weight_map": {"a": "../m-1.safetensors"}}', "lies outside"),
        ('{"weight_map": {"z": "m-1.safetensors"}}', "holds no tensor 'z'"),
    ],
)
def test_indexes_that_lie_are_refused(tmp_path, text, says):
    save_file({"a": np.ones((2, 2), np.float32)}, tmp_path / "m-1.safetensors")
    (tmp_path / "m.safetensors.index.json").write_text(text)
    with pytest.raises(FileFormatError, match=says):
        open_weights(tmp_path / "m.safetensors.index.json")


def write(folder, end):
    path = folder / f"w{end}"
    array = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)
    if end == ".safetensors":
        save_file({"w": array}, path)
    elif end == ".npz":
        np.savez_compressed(path, w=array)
    elif end == ".npy":
        np.save(path, array)
    else:
        pytest.importorskip("torch").save({"w": pytest.importorskip("torch").from_numpy(array)}, path)
    return path


@pytest.mark.parametrize("end", [".safetensors", ".npz", ".npy", ".pt"])
@given(share=st.floats(0, 0.999))
@quick
def test_truncated_files_are_refused_wherever_they_end(tmp_path, end, share):
    path = write(tmp_path, end)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(FileFormatError):
        open_weights(path).read("w").values()


@pytest.mark.parametrize("end", [".safetensors", ".npz", ".npy", ".pt", ".pth", ".bin"])
@given(data=st.binary(max_size=200))
@quick
def test_files_of_something_else_are_refused(tmp_path, end, data):
    path = tmp_path / f"w{end}"
    path.write_bytes(data)
    with pytest.raises(FileFormatError):
        open_weights(path)


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ("unpickled!",))


@pytest.mark.parametrize("end", [".npy", ".npz", ".pt"])
def test_nothing_is_unpickled(tmp_path, end, capsys):
    path = tmp_path / f"w{end}"
    bomb = np.array([Bomb()], dtype=object)
    if end == ".npy":
        np.save(path, bomb, allow_pickle=True)
    elif end == ".npz":
        np.savez(path, w=bomb)
    else:
        pytest.importorskip("torch").save({"w": Bomb()}, path)
    with pytest.raises(FileFormatError):
        open_weights(path)
    assert "unpickled" not in capsys.readouterr().out


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(FileFormatError, match=r"none\.npz does not exist"):
        open_weights(tmp_path / "none.npz")
    with pytest.raises(FileFormatError, match="0 safetensors files"):
        open_weights(tmp_path)
    save_file({"w": np.ones((2, 2))}, tmp_path / "w.safetensors")
    with pytest.raises(FileFormatError, match="holds no tensor 'x'"):
        open_weights(tmp_path / "w.safetensors").read("x")


def test_integers_hold_no_weights():
    with pytest.raises(FileFormatError, match="int64 holds no weights"):
        Tensor("int64", np.zeros(3, np.uint64)).values()


@given(arrays(np.uint16, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)))
@quick
def test_every_bit_pattern_of_bfloat16_is_read(tmp_path, bits):
    header = {"w": {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [0, bits.nbytes]}}
    text = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bits.astype("<u2").tobytes())
    file = open_weights(tmp_path / "w.safetensors")
    assert (file.dtypes["w"], file.shapes["w"]) == ("bfloat16", bits.shape)
    np.testing.assert_array_equal(file.read("w").bits, bits)
    values = file.read("w").values()
    assert values.shape == bits.shape
    np.testing.assert_array_equal(values.view(np.uint32), bits.astype(np.uint32) << 16)


def test_bfloat16_means_what_torch_means(tmp_path):
    torch = pytest.importorskip("torch")
    safetensors_torch = pytest.importorskip("safetensors.torch")
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).reshape(256, 256)
    safetensors_torch.save_file({"w": every}, tmp_path / "w.safetensors")
    torch.save({"w": every}, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        np.testing.assert_array_equal(open_weights(tmp_path / name).read("w").values(), every.float().numpy())


@pytest.mark.parametrize("end", [".pth", ".bin", ".old.pt"])
@given(share=st.floats(0, 0.999))
@quick
def test_truncated_torch_files_are_refused(tmp_path, end, share):
    torch = pytest.importorskip("torch")
    content = io.BytesIO()
    torch.save({"w": torch.ones(40, 30)}, content, _use_new_zipfile_serialization=end != ".old.pt")
    path = tmp_path / f"w{end}"
    path.write_bytes(content.getvalue()[: int(share * len(content.getvalue()))])
    with pytest.raises(FileFormatError):
        open_weights(path).read("w").values()


@pytest.mark.parametrize("cut", ["m-2.safetensors", "m.safetensors.index.json"])
@given(share=st.floats(0, 0.999))
@quick
def test_truncated_shards_and_indexes_are_refused(tmp_path, cut, share):
    for shard, name in (("m-1.safetensors", "a"), ("m-2.safetensors", "b")):
        save_file({name: np.ones((4, 4), np.float32)}, tmp_path / shard)
    weight_map = {"a": "m-1.safetensors", "b": "m-2.safetensors"}
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    data = (tmp_path / cut).read_bytes()
    (tmp_path / cut).write_bytes(data[: int(share * len(data))])
    with pytest.raises(FileFormatError, match=cut):
        open_weights(tmp_path)


@pytest.mark.parametrize("name", ["w.txt", "w", "w.npz.gz", "w.h5", "w.safetensors.json", "npz"])
def test_other_endings_are_refused_whatever_is_inside(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        np.savez(file, w=np.ones((2, 2)))
    with pytest.raises(FileFormatError, match="the name's ending"):
        open_weights(tmp_path / name)


def npy(value):
    content = io.BytesIO()
    np.save(content, np.full((4, 4), value))
    return content.getvalue()


def test_two_arrays_of_one_name_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("a", npy(1.0))
        archive.writestr("a.npy", npy(2.0))
    with pytest.raises(FileFormatError, match="two of its arrays are named 'a'"):
        open_weights(tmp_path / "w.npz")


def test_two_tensors_of_one_name_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({1: torch.ones(2, 2), "1": torch.zeros(2, 2)}, tmp_path / "w.pt")
    with pytest.raises(FileFormatError, match="two tensors named '1'"):
        open_weights(tmp_path / "w.pt")


def test_archives_that_numpy_does_not_write_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", npy(1.0))
    data = bytearray((tmp_path / "w.npz").read_bytes())
    for place in (None, 39):  # whole, and with settings that the decompressor does not know
        if place:
            data[place] ^= 0x55
            (tmp_path / "w.npz").write_bytes(data)
        with pytest.raises(FileFormatError, match="numpy does not write"):
            open_weights(tmp_path / "w.npz")


def test_an_archive_without_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "w.npz")
    with pytest.raises(FileFormatError, match="it holds no arrays;"):
        open_weights(tmp_path / "w.npz")

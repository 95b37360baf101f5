"""Parts of tensors are those of the whole, in every format."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tmask.errors import FileFormatError
from tmask.files.opening import open_weights
from tmask.files.packed_mask import PackedMask

RNG = np.random.default_rng(0)
TENSORS = {
    "a": RNG.standard_normal((7, 5)).astype(np.float16),
    "b": RNG.standard_normal((3, 4, 2)),
    # As torch's pruning stores them: what is read is the product.
    "c_orig": RNG.standard_normal((6, 4)).astype(np.float32),
    "c_mask": (RNG.random((6, 4)) < 0.5).astype(np.float32),
}


def write(path, form):
    if form == "npz":
        np.savez(path / "w.npz", **TENSORS)
        return path / "w.npz"
    if form == "torch":
        torch = pytest.importorskip("torch")
        torch.save({name: torch.from_numpy(tensor) for name, tensor in TENSORS.items()}, path / "w.pt")
        return path / "w.pt"
    save_file(TENSORS, path / "w.safetensors")
    if form == "index":
        index = path / "w.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": dict.fromkeys(TENSORS, "w.safetensors")}))
        return index
    return path / "w.safetensors"


@pytest.mark.parametrize("form", ["safetensors", "index", "npz", "torch"])
def test_a_part_is_that_of_the_whole(tmp_path, form):
    file = open_weights(write(tmp_path, form))
    for name, tensor in TENSORS.items():
        whole = file.read(name).bits.reshape(-1)
        if name == "c_orig":
            assert np.count_nonzero(whole) == np.count_nonzero(TENSORS["c_mask"])
        load = file.parts(name)
        for start, stop in (0, tensor.size), (3, 4), (tensor.size - 5, tensor.size), (2, 2):
            part = load(start, stop)
            assert part.dtype == file.dtypes[name]
            np.testing.assert_array_equal(part.bits, whole[start:stop])


def test_what_cannot_be_read_is_said(tmp_path):
    path = write(tmp_path, "safetensors")
    file = open_weights(path)
    with pytest.raises(FileFormatError, match="no tensor 'x'"):
        file.parts("x")
    path.write_bytes(path.read_bytes()[:-200])
    load = file.parts("a")  # the narrowest, and so the last in the file
    with pytest.raises(FileFormatError, match="cannot be read"):
        load(0, TENSORS["a"].size)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 40])
def test_parts_of_a_packed_mask(size):
    mask = RNG.random(size) < 0.5
    packed = PackedMask.of(mask.reshape(1, -1))
    for start in range(size):
        for stop in range(start, size + 1):
            np.testing.assert_array_equal(packed.part(start, stop), mask[start:stop])

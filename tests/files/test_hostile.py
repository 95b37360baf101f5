"""What a file could do to its reader: lead it to other folders, or have it run code."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import tmask
from tmask.files.opening import open_weights

FIRST, SECOND = np.ones((4, 6), np.float16), np.zeros((3, 4, 2, 2), np.float32)


def index(path, weight_map):
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


def fails(path, *texts):
    with pytest.raises(tmask.FileFormatError) as caught:
        open_weights(path)
    for text in (path.name, *texts):
        assert text in str(caught.value)


def test_shards(tmp_path):
    save_file({"w16": FIRST}, tmp_path / "1.safetensors")
    save_file({"w32": SECOND, "unlisted": FIRST}, tmp_path / "2.safetensors")
    path = index(tmp_path / "m.safetensors.index.json", {"w32": "2.safetensors", "w16": "1.safetensors"})
    for opened in (path, tmp_path):
        file = open_weights(opened)
        assert file.names == ("w32", "w16")
        np.testing.assert_array_equal(file.read("w16").values(), FIRST)
        np.testing.assert_array_equal(file.read("w32").values(), SECOND)


@pytest.mark.parametrize(
    ("weight_map", "says"),
    [
        ({"w": "gone.safetensors"}, "'gone.safetensors' is missing"),
        ({"w": "../1.safetensors"}, "outside"),
        ({"w": "/etc/passwd"}, "outside"),
        ({"w": ".."}, "outside"),
        ({"w": "sub/1.safetensors"}, "outside"),
        ({"w": ""}, "missing"),
        ({"w": 1}, "'1' is missing"),
        ({"v": "1.safetensors"}, "holds no tensor 'v'"),
        (["w"], "no safetensors index"),
        (None, "no safetensors index"),
    ],
)
def test_an_index_that_leads_nowhere(tmp_path, weight_map, says):
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (tmp_path, folder):
        save_file({"w": SECOND}, place / "1.safetensors")
    fails(index(folder / "m.safetensors.index.json", weight_map), says)


@pytest.mark.parametrize("text", ["", "{}", "[", "[" * 100_000, "\xff", '{"weight_map": 3}'])
def test_an_index_that_is_none(tmp_path, text):
    path = tmp_path / "m.safetensors.index.json"
    path.write_bytes(text.encode("latin-1"))
    fails(path, "no safetensors index")


def test_a_damaged_shard_is_named(tmp_path):
    (tmp_path / "1.safetensors").write_bytes(b"no")
    path = index(tmp_path / "m.safetensors.index.json", {"w": "1.safetensors"})
    with pytest.raises(tmask.FileFormatError, match=r"1\.safetensors is no complete safetensors file"):
        open_weights(path)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_nothing_is_unpickled(tmp_path):
    bomb = np.array([Bomb()], dtype=object)
    np.save(tmp_path / "a.npy", bomb)
    fails(tmp_path / "a.npy", "never loaded")
    np.savez(tmp_path / "a.npz", bomb=bomb, w=SECOND)
    file = open_weights(tmp_path / "a.npz")
    assert file.dtypes["bomb"] == "object"
    with pytest.raises(tmask.FileFormatError, match="'bomb' cannot be read"):
        file.read("bomb")
    np.testing.assert_array_equal(file.read("w").values(), SECOND)

"""Small files that declare far more than they hold, or say a thing twice: refused before any of it is read."""

from __future__ import annotations

import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import tmask
from tmask.files import room
from tmask.files.masks import read_masks
from tmask.files.opening import open_weights

READ = """
import resource, sys
from tmask.files.opening import open_weights
import tmask, numpy
try: import torch
except ImportError: pass
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    file = open_weights(sys.argv[1])
    file.read(file.names[0])
except tmask.FileFormatError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, file=sys.stderr)
"""


def refused(path) -> str:
    """What is said of a file, in a process that may not have taken much memory for it."""
    result = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, check=True)
    assert int(result.stderr.split()[-1]) < 64 * 1024  # KiB
    return result.stdout


def compressed(path, name, header, count, step=1 << 24):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w", force_zip64=True) as file:
        file.write(header)
        for _ in range(count // step):
            file.write(bytes(step))
    return path


def npy_header(shape) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def test_zeros_that_are_compressed(tmp_path):
    path = compressed(tmp_path / "a.npz", "w.npy", npy_header((8192, 8192)), 1 << 28)
    assert path.stat().st_size < 1 << 19
    assert "'w' cannot be read (it would take 268,435,5" in refused(path).replace("GiB", "")


def test_a_header_that_is_compressed(tmp_path):
    header = b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 28)
    assert "is no complete .npz file" in refused(compressed(tmp_path / "a.npz", "w.npy", header, 1 << 28))


def test_one_number_that_repeats(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.zeros(1).expand(60000, 60000)}, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 2000
    assert "'w' cannot be read (it would take 13.4 GiB of memory, of which the file holds 4 bytes" in refused(
        tmp_path / "a.pt"
    )


def test_a_torch_file_that_is_compressed(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.zeros(1 << 26)}, tmp_path / "whole.pt")
    with (
        zipfile.ZipFile(tmp_path / "whole.pt") as source,
        zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for info in source.infolist():
            target.writestr(info.filename, source.read(info))
    assert "weights do not repeat like that" in refused(tmp_path / "a.pt")


def test_more_than_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "_HARMLESS", 100)
    monkeypatch.setattr(room, "free_bytes", lambda: 1000)
    np.save(tmp_path / "a.npy", np.zeros((16, 16), np.float32))
    with pytest.raises(tmask.FileFormatError, match="it would take 1,024 bytes of memory, and 1,000 bytes are free"):
        open_weights(tmp_path / "a.npy").read("a")
    monkeypatch.setattr(room, "free_bytes", lambda: None)
    open_weights(tmp_path / "a.npy").read("a")


def test_what_repeats_a_little_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.ones(1, 8).expand(64, 8)}, tmp_path / "a.pt")
    assert open_weights(tmp_path / "a.pt").read("w").values().sum() == 512
    np.savez_compressed(tmp_path / "a.npz", w=np.zeros((512, 512), np.float32))
    assert open_weights(tmp_path / "a.npz").read("w").shape == (512, 512)


def test_a_whole_model_gets_advice(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(4, 4), tmp_path / "a.pt")
    with pytest.raises(
        tmask.FileFormatError, match=r"\(torch.nn.modules.linear.Linear\).* save model.state_dict\(\)"
    ) as e:
        open_weights(tmp_path / "a.pt")
    assert "\x1b" not in str(e.value)


def safetensors_twice(path, metadata="") -> None:
    entry = '{"dtype":"U8","shape":[2],"data_offsets":[%d,%d]}'
    header = f'{{{metadata}"a":{entry % (0, 2)},"a":{entry % (0, 2)}}}'.encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\1\2")


def test_a_name_twice(tmp_path):
    safetensors_twice(tmp_path / "a.safetensors")
    with pytest.raises(tmask.FileFormatError, match="two of its entries are named 'a'"):
        open_weights(tmp_path / "a.safetensors")
    safetensors_twice(tmp_path / "m.safetensors", '"__metadata__":{"format":"tmask-masks","format_version":"1"},')
    with pytest.raises(tmask.FileFormatError, match="two of its entries are named 'a'"):
        read_masks(tmp_path / "m.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}')
    with pytest.raises(tmask.FileFormatError, match="two of its entries are named 'a'"):
        open_weights(index)

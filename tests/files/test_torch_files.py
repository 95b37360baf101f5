"""torch's files, where torch is installed."""

from __future__ import annotations

import numpy as np
import pytest

import tmask
from tmask.files.layers import select_layers
from tmask.files.masked_weights import write_masked_weights
from tmask.files.opening import open_weights
from tmask.files.packed_mask import PackedMask

torch = pytest.importorskip("torch")


def save(path, content, **options):
    torch.save(content, path, **options)
    return path


def state():
    torch.manual_seed(0)
    tensors = {
        f"w.{dtype}".replace("torch.", ""): torch.randn(4, 6).to(dtype)
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn)
    }
    return tensors | {
        "transposed": torch.randn(3, 5).T,
        "steps": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "conjugate": torch.randn(2, 2, dtype=torch.complex64).conj(),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    }


def check_state(file, tensors):
    assert file.names == tuple(tensors)
    for name, tensor in tensors.items():
        read = file.read(name)
        assert read.shape == file.shapes[name] == tuple(tensor.shape)
        assert f"torch.{read.dtype}" == f"torch.{file.dtypes[name]}" == str(tensor.dtype)
        if read.dtype in ("float16", "bfloat16", "float32", "float64"):
            assert torch.equal(torch.from_numpy(np.array(read.values())).to(tensor.dtype), tensor.detach())
    assert file.read("conjugate").bits.tobytes() == tensors["conjugate"].resolve_conj().numpy().tobytes()


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin"])
def test_state_dicts(tmp_path, suffix):
    check_state(open_weights(save(tmp_path / f"a.{suffix}", state())), state())


@pytest.mark.parametrize("nest", [["state_dict"], ["model"], ["model_state_dict"], ["state_dict", "model"]])
def test_checkpoints(tmp_path, nest):
    content = state()
    for key in reversed(nest):
        content = {"epoch": 3, key: content}
    check_state(open_weights(save(tmp_path / "a.pt", content)), state())


def test_the_old_format_cannot_be_mapped_but_is_read(tmp_path):
    tensors = {name: tensor for name, tensor in state().items() if "float8" not in name}  # torch cannot either
    check_state(open_weights(save(tmp_path / "a.pt", tensors, _use_new_zipfile_serialization=False)), tensors)


def test_a_single_tensor(tmp_path):
    assert open_weights(save(tmp_path / "a.pt", torch.ones(2, 3))).shapes == {"weight": (2, 3)}


def test_no_prefix_is_stripped(tmp_path):
    assert open_weights(save(tmp_path / "a.pt", {"module.w": torch.ones(2, 2)})).names == ("module.w",)


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:.*quantize", "ignore:TypedStorage")
def test_tensors_without_dense_contents_are_listed_and_skipped(tmp_path):
    content = {
        "w": torch.randn(4, 4),
        "coo": torch.eye(4).to_sparse(),
        "csr": torch.eye(4).to_sparse_csr(),
        "meta": torch.empty(4, 4, device="meta"),
        "codes": torch.quantize_per_tensor(torch.randn(4, 4), 0.1, 0, torch.qint8),
    }
    file = open_weights(save(tmp_path / "a.pt", content))
    selection = select_layers(file)
    assert [layer.name for layer in selection.layers] == ["w"]
    reasons = {item.name: item.reason for item in selection.skipped}
    assert reasons["coo"] == "dtype sparse_coo float32"
    assert set(reasons) == {"coo", "csr", "meta", "codes"}
    for name in reasons:
        with pytest.raises(tmask.FileFormatError, match=f"'{name}' cannot be read"):
            file.read(name)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("content", [Bomb(), {"w": torch.ones(2, 2), "x": Bomb()}, torch.nn.Linear(2, 2)])
def test_nothing_but_plain_tensors_is_loaded(tmp_path, content, zipped):
    path = save(tmp_path / "a.pt", content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(tmask.FileFormatError, match="could run code"):
        open_weights(path)


@pytest.mark.parametrize(
    ("content", "says"), [([1, 2], "holds a list"), ({"lr": 0.1}, "no tensors, but lr"), ({}, "nothing")]
)
def test_files_without_tensors(tmp_path, content, says):
    with pytest.raises(tmask.FileFormatError, match=says):
        open_weights(save(tmp_path / "a.pt", content))


def test_masked_weights_of_a_checkpoint(tmp_path):
    tensors = state()
    name = "w.bfloat16"
    mask = np.arange(24).reshape(4, 6) % 2 == 0
    write_masked_weights(
        tmp_path / "b.safetensors", open_weights(save(tmp_path / "a.pt", tensors)), {name: PackedMask.of(mask)}
    )
    written = pytest.importorskip("safetensors.torch").load_file(tmp_path / "b.safetensors")
    expected = torch.where(torch.from_numpy(mask), tensors[name], 0)
    assert torch.equal(written[name].view(torch.int16), expected.view(torch.int16))
    for other in set(tensors) - {name}:
        assert written[other].dtype == tensors[other].dtype
        assert written[other].shape == tensors[other].shape
        if "float8" not in other:
            assert torch.equal(written[other], tensors[other].detach().resolve_conj())

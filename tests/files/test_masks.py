"""Mask files hold what they were given, know their weights, and are written whole or not at all."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tmask import Pattern, __version__
from tmask.errors import FileFormatError, OutputError
from tmask.files.atomic import atomic_path, check_output
from tmask.files.masked_weights import write_masked_weights
from tmask.files.masks import MaskRecord, read_masks, write_masks
from tmask.files.opening import open_weights
from tmask.files.packed_mask import PackedMask
from tmask.files.partial import PartialStore
from tmask.files.safetensors_files import write_safetensors
from tmask.files.stretches import check_digest, stretch_of
from tmask.files.tensors import Tensor, from_numpy
from tmask.files.weight_file import WeightFile

quick = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def record(mask, name="layer.weight", sha256="0" * 64, **changes):
    made = MaskRecord(
        name=name, packed=PackedMask.of(mask), pattern=Pattern(2, 4), groups=1, solver="patterns", settings="",
        objective=1.5, dual_bound=None, total=3.0, status="optimal", seconds=0.1, weights_sha256=sha256, job="2:4 auto",
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def check_belongs(mask, tensor):
    name = mask.name
    source = WeightFile("model", {name: tensor.shape}, {name: tensor.dtype}, lambda name: tensor)
    check_digest(mask, stretch_of(mask, source).sha256())


def same(a, b):
    np.testing.assert_array_equal(a.mask, b.mask)
    assert a.metadata() == b.metadata()
    assert a.name == b.name


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=4, max_side=7)), st.text(min_size=1, max_size=10))
@quick
def test_masks_round_trip(tmp_path, mask, name):
    if name == "__metadata__" or "\0" in name or not name.isprintable():
        return
    path = tmp_path / "m.safetensors"
    write_masks(path, [record(mask, name), record(~mask, name + ".2", dual_bound=1.6)], overwrite=True)
    read = read_masks(path)
    assert list(read) == [name, name + ".2"]
    same(read[name], record(mask, name))
    same(read[name + ".2"], record(~mask, name + ".2", dual_bound=1.6))


def test_eight_entries_take_a_byte(tmp_path):
    mask = np.zeros((3, 5), bool)
    mask[0, 0] = mask[1, 4] = True  # entries 0 and 9
    write_masks(tmp_path / "m.safetensors", [record(mask)])
    with safe_open(tmp_path / "m.safetensors", framework="numpy") as file:
        assert file.get_tensor("layer.weight").tolist() == [1, 2]


def test_masks_of_other_weights_are_found(tmp_path):
    tensor = from_numpy(np.ones((4, 4), np.float32))
    mine = record(np.ones((4, 4), bool), sha256=tensor.sha256())
    check_belongs(mine, tensor)
    with pytest.raises(FileFormatError, match="made for other weights"):
        check_belongs(mine, from_numpy(np.zeros((4, 4), np.float32)))
    with pytest.raises(FileFormatError, match=r"shape \(4, 4\), but the weight has \(2, 8\)"):
        check_belongs(mine, from_numpy(np.ones((2, 8), np.float32)))


def test_what_is_no_mask_file_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(FileFormatError, match="does not exist"):
        read_masks(path)
    save_file({"w": np.ones((2, 2))}, path)
    with pytest.raises(FileFormatError, match="but no mask file"):
        read_masks(path)
    save_file({"w": np.ones(2, np.uint8)}, path, {"format": "tmask-masks", "format_version": "9", "layers": "{}"})
    with pytest.raises(FileFormatError, match="has mask format 9; this tmask reads 1"):
        read_masks(path)
    save_file(
        {"w": np.ones(2, np.uint8)}, path, {"format": "tmask-masks", "format_version": "1", "layers": '{"w": {}}'}
    )
    with pytest.raises(FileFormatError, match="no complete mask file"):
        read_masks(path)


@given(share=st.floats(0, 0.999))
@quick
def test_truncated_mask_files_are_refused(tmp_path, share):
    path = tmp_path / "m.safetensors"
    write_masks(path, [record(np.ones((9, 9), bool))], overwrite=True)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(FileFormatError):
        read_masks(path)


def test_masked_weights_keep_every_other_bit(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    source = {
        "a": -torch.rand(4, 4).bfloat16() - 1,
        "b": torch.full((2, 4), float("nan"), dtype=torch.float16),
        "ids": torch.arange(5),
    }
    save_torch(source, tmp_path / "w.safetensors")
    mask = np.eye(4, dtype=bool)
    write_masked_weights(
        tmp_path / "out.safetensors", open_weights(tmp_path / "w.safetensors"), {"a": PackedMask.of(mask)}
    )
    written = load_torch(tmp_path / "out.safetensors")
    for name, tensor in source.items():
        assert written[name].dtype == tensor.dtype
        expected = (
            torch.where(torch.from_numpy(mask), tensor, torch.zeros((), dtype=tensor.dtype)) if name == "a" else tensor
        )
        assert torch.equal(written[name].view(torch.uint8), expected.view(torch.uint8))
    assert not torch.signbit(written["a"]).sum() > 4  # pruned entries are +0


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_write_leaves_nothing_and_touches_nothing(tmp_path, error):
    path = tmp_path / "out"
    path.write_text("before")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert path.read_text() == "before"
    with atomic_path(path) as temporary:
        temporary.write_text("after")
    assert path.read_text() == "after"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failed_mask_write_leaves_nothing(tmp_path, monkeypatch):
    def full(array):  # when the header is written already
        raise OSError(28, "No space left")

    monkeypatch.setattr("tmask.files.safetensors_files.contents", full)
    with pytest.raises(OutputError, match="No space left"):
        write_masks(tmp_path / "m.safetensors", [record(np.ones((4, 4), bool))])
    assert list(tmp_path.iterdir()) == []


def test_outputs_are_checked_before_the_work(tmp_path):
    with pytest.raises(OutputError, match="is a folder"):
        check_output(tmp_path)
    with pytest.raises(OutputError, match="does not exist"):
        check_output(tmp_path / "no" / "m")
    (tmp_path / "m").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        check_output(tmp_path / "m")
    assert check_output(tmp_path / "m", overwrite=True) == tmp_path / "m"
    with pytest.raises(OutputError, match="exists already"):
        write_masks(tmp_path / "m", [record(np.ones((4, 4), bool))])
    assert (tmp_path / "m").read_text() == "mine"


def test_finished_layers_are_kept_for_the_same_job_only(tmp_path):
    store = PartialStore(tmp_path / "m.safetensors")
    assert store.get("layer.weight", "2:4 auto", "0" * 64) is None
    store.put(record(np.eye(4, dtype=bool)))
    again = PartialStore(tmp_path / "m.safetensors")
    same(again.get("layer.weight", "2:4 auto", "0" * 64), record(np.eye(4, dtype=bool)))
    assert again.get("layer.weight", "4:8 auto", "0" * 64) is None
    assert again.get("layer.weight", "2:4 auto", "1" * 64) is None
    assert again.get("other", "2:4 auto", "0" * 64) is None
    again.discard()
    again.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_partial_layer_is_computed_anew(tmp_path):
    store = PartialStore(tmp_path / "m.safetensors")
    store.put(record(np.eye(4, dtype=bool)))
    (kept,) = store.folder.iterdir()
    kept.write_bytes(kept.read_bytes()[:50])
    assert store.get("layer.weight", "2:4 auto", "0" * 64) is None


def test_names_may_look_like_paths(tmp_path):
    store = PartialStore(tmp_path / "m.safetensors")
    store.put(record(np.eye(4, dtype=bool), name="../../evil/name"))
    assert store.get("../../evil/name", "2:4 auto", "0" * 64) is not None
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors.partial"]


def test_empty_selections_and_files_load_elsewhere(tmp_path):
    write_masks(tmp_path / "m.safetensors", [record(np.ones((4, 4), bool))])
    assert load_file(tmp_path / "m.safetensors")["layer.weight"].tolist() == [255, 255]


def test_what_is_known_of_a_mask_is_in_the_header(tmp_path):
    mask = np.arange(20).reshape(4, 5) % 3 == 0
    write_masks(tmp_path / "m.safetensors", [record(mask, groups=2, dual_bound=1.75)])
    with safe_open(tmp_path / "m.safetensors", framework="numpy") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["format_version"]) == ("tmask-masks", "1")
    assert metadata["tmask_version"] == __version__
    assert json.loads(metadata["layers"]) == {
        "layer.weight": {
            "shape": [4, 5], "pattern": "2:4", "groups": 2, "solver": "patterns", "settings": "", "objective": 1.5,
            "dual_bound": 1.75, "total": 3.0, "status": "optimal", "seconds": 0.1, "weights_sha256": "0" * 64,
            "job": "2:4 auto", "layout": "matrix",
        }
    }  # fmt: skip


def test_a_mask_file_is_replaced_only_if_asked(tmp_path):
    path = tmp_path / "m.safetensors"
    old, new = np.eye(4, dtype=bool), ~np.eye(4, dtype=bool)
    write_masks(path, [record(old)])
    with pytest.raises(OutputError, match="exists already"):
        write_masks(path, [record(new)])
    same(read_masks(path)["layer.weight"], record(old))
    write_masks(path, [record(new)], overwrite=True)
    same(read_masks(path)["layer.weight"], record(new))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("changes", [{"format": "pt"}, {"format_version": "2"}, {"format_version": ""}])
def test_other_formats_and_versions_are_refused(tmp_path, changes):
    write_masks(tmp_path / "m", [record(np.eye(4, dtype=bool))])
    with safe_open(tmp_path / "m", framework="numpy") as file:
        metadata = file.metadata() | changes
    save_file(load_file(tmp_path / "m"), tmp_path / "n", metadata)
    with pytest.raises(FileFormatError, match=r"no mask file|has mask format"):
        read_masks(tmp_path / "n")


def test_one_bit_of_a_weight_makes_it_another(tmp_path):
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float16)
    mine = record(np.eye(4, dtype=bool), sha256=from_numpy(weight).sha256())
    check_belongs(mine, from_numpy(weight.copy()))
    check_belongs(mine, from_numpy(np.asfortranarray(weight)))
    weight.view(np.uint16)[3, 3] ^= 1
    for other in (weight, weight.astype(np.float32)):
        with pytest.raises(FileFormatError, match="made for other weights"):
            check_belongs(mine, from_numpy(other))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@given(data=st.data())
@quick
def test_pruned_entries_are_positive_zeros_and_kept_bits_stay(tmp_path, dtype, data):
    """NaNs with a payload, subnormals and -0 among them."""
    bits = data.draw(arrays(np.uint16, array_shapes(min_dims=2, max_dims=4, max_side=5)))
    mask = data.draw(arrays(np.bool_, bits.shape))
    other = data.draw(arrays(np.uint16, (3,)))
    tensors = {"w": Tensor(dtype, bits), "bias": Tensor(dtype, other)}
    listing = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    write_safetensors(tmp_path / "w.safetensors", listing, tensors.__getitem__, {})
    source = open_weights(tmp_path / "w.safetensors")
    write_masked_weights(tmp_path / "out.safetensors", source, {"w": PackedMask.of(mask)}, overwrite=True)
    written = open_weights(tmp_path / "out.safetensors")
    assert set(written.dtypes.values()) == {dtype}
    assert (written.read("w").bits[~mask] == 0).all()
    np.testing.assert_array_equal(written.read("w").bits[mask], bits[mask])
    np.testing.assert_array_equal(written.read("bias").bits, other)


def test_half_a_character_in_a_name_is_refused_before_a_file_is_there(tmp_path):
    with pytest.raises(FileFormatError, match="cannot be in a safetensors file"):
        write_masks(tmp_path / "m", [record(np.eye(4, dtype=bool), name="\udfff")])
    assert list(tmp_path.iterdir()) == []

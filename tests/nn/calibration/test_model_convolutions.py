"""Groups of convolutions, from the model that the config beside a file describes."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("transformers")

import transformers

import tmask
from tests.cli.harness import leftovers, one_line, run
from tmask.files.layers import select_layers
from tmask.files.masks import read_masks
from tmask.files.opening import open_weights
from tmask.nn.calibration import model_convolutions as subject
from tmask.nn.calibration.model_convolutions import model_convolutions

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SPEECH = {**SMALL, "conv_dim": [16, 16], "conv_stride": [2, 2], "conv_kernel": [3, 3], "num_feat_extract_layers": 2}
MODELS = {
    "RegNetForImageClassification": {
        "embedding_size": 8, "hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1], "groups_width": 8,
    },
    "ResNetModel": {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1]},
    "ConvNextModel": {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]},
    "SqueezeBertModel": {**SMALL, "embedding_size": 32, "vocab_size": 50},
    "Wav2Vec2Model": {**SPEECH, "num_conv_pos_embedding_groups": 4, "num_conv_pos_embeddings": 8},
    "SegformerModel": {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]},  # saved under earlier names
}  # fmt: skip


def save(name, folder):
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**MODELS[name]))
    model.save_pretrained(folder)
    return model


def shape_and_groups(model):
    import torch

    convolutions = (module for module in model.modules() if isinstance(module, torch.nn.modules.conv._ConvNd))
    return sorted((tuple(one.weight.shape), one.groups) for one in convolutions)


@pytest.mark.parametrize("name", MODELS)
def test_every_convolution_has_the_groups_of_its_module(name, tmp_path):
    expected = shape_and_groups(save(name, tmp_path))
    file = open_weights(tmp_path)
    found = model_convolutions(file)
    assert sorted((tuple(file.shapes[name]), groups) for name, groups in found.items()) == expected


def test_a_file_of_grouped_convolutions_is_solved_by_groups(tmp_path):
    save("RegNetForImageClassification", tmp_path / "model")
    result = run("solve", tmp_path / "model", "-p", "2:4", "-o", tmp_path / "masks.safetensors")
    assert "without groups" not in result.stderr
    records = read_masks(tmp_path / "masks.safetensors")
    grouped = {name: record for name, record in records.items() if record.groups > 1}
    assert len(grouped) == 4
    source = open_weights(tmp_path / "model")
    for name, record in grouped.items():
        assert record.groups == record.mask.shape[0] // 8
        assert record.objective == tmask.solve(source.read(name).values(), "2:4", groups=record.groups).objective
    # What the user says goes before.
    name = next(iter(grouped))
    again = ("solve", tmp_path / "model", "-p", "2:4", "-o", tmp_path / "masks.safetensors", "--overwrite")
    run(*again, "--groups", f"{name}=1")
    assert read_masks(tmp_path / "masks.safetensors")[name].groups == 1


def test_three_axes_of_a_convolution_need_no_layout(tmp_path):
    save("SqueezeBertModel", tmp_path)
    weights = open_weights(tmp_path)
    with pytest.raises(tmask.InvalidProblemError, match="stacks of matrices, such as experts, or convolutions"):
        select_layers(weights, side=4)
    layers = select_layers(weights, side=4, convolutions=model_convolutions).layers
    read = {layer.name: (layer.layout, layer.groups) for layer in layers if len(layer.shape) == 3}
    assert len(read) == 12
    assert set(read.values()) == {("convolution", 1), ("convolution", 4)}


@pytest.mark.parametrize(
    "config",
    [
        None,
        "{",
        [],
        {"model_type": "nobody's"},
        {"model_type": "regnet", "depths": [10**9]},
        {"model_type": "regnet", "depths": "deep"},
        {"model_type": "regnet", "num_layers": float("inf")},
        '{"depths": ' * 10**5,
        {"model_type": "nobody's", "auto_map": {"AutoConfig": "code.Config"}},  # no code of the folder is run
        {"architecture": "resnext50_32x4d"},
    ],
    ids=str,
)
def test_where_no_model_can_be_made_the_remark_stays(tmp_path, config):
    save("RegNetForImageClassification", tmp_path / "model")
    (tmp_path / "model/config.json").unlink()
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / "model/config.json").write_text(text)
    result = run("solve", tmp_path / "model", "-p", "2:4", "-o", tmp_path / "masks.safetensors")
    assert "read as convolutions without groups" in one_line(result.stderr)
    assert leftovers(tmp_path) == ["masks.safetensors", "model"]


def test_another_shape_is_not_the_models(tmp_path):
    save("RegNetForImageClassification", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"groups_width": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    file = open_weights(tmp_path)
    wide = [name for name, shape in file.shapes.items() if shape[1:] == (8, 3, 3)]
    assert len(wide) >= 3
    assert not any(name in model_convolutions(file) for name in wide)


def test_no_memory_is_taken_for_a_model_of_any_width(tmp_path):
    save("ResNetModel", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"hidden_sizes": [10**6, 10**6]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_convolutions(open_weights(tmp_path))  # of the parts that are as the file has them


def test_a_model_is_made_only_where_something_is_open(tmp_path, monkeypatch):
    save("ResNetModel", tmp_path)
    asked = []
    monkeypatch.setattr(subject, "_skeleton", lambda folder: asked.append(folder) or 1 / 0)
    (tmp_path / "model.safetensors").unlink()
    from safetensors.numpy import save_file

    save_file({"fc.weight": np.ones((8, 8), np.float32)}, tmp_path / "model.safetensors")
    select_layers(open_weights(tmp_path), convolutions=model_convolutions)
    assert not asked

"""What tensors of the common libraries' files are for: which get a mask, and why the others get none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tmask
from tmask.files.layers import select_layers
from tmask.files.opening import open_weights
from tmask.files.tensors import from_numpy
from tmask.files.weight_file import WeightFile

BESIDE = {"mlp.up_proj.weight": ((16, 16), "float32")}


def file(tensors, path=Path("model.safetensors")):
    return WeightFile(
        path,
        {name: shape for name, (shape, _) in tensors.items()},
        {name: dtype for name, (_, dtype) in tensors.items()},
        lambda name: from_numpy(np.zeros(tensors[name][0], np.float32)),
    )


def reasons(tensors, **options):
    return {item.name: item.reason for item in select_layers(file(BESIDE | tensors), side=4, **options).skipped}


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("fc.weight_mask", (16, 16), "a mask"),  # torch.nn.utils.prune
        ("fc.__weight_mma_mask", (16, 16), "a mask"),  # ASP, which keeps it in half precision
        ("fc.__weight_mma_pruned_p", (16, 16), "a mask"),
        ("fc.mask", (16, 16), "a mask"),
        ("attn.causal_mask", (16, 16), "a mask"),
        ("h.0.attn.bias", (1, 1, 16, 16), "a bias"),  # GPT-2's causal mask
        ("fc.weight_scale", (16, 16), "scales"),
        ("fc.weight_scale_inv", (16, 16), "scales"),
        ("fc.scales", (16, 16), "scales"),
        ("fc.weight_zero_point", (16, 16), "scales"),
        ("fc.weight.absmax", (16, 16), "scales"),
        ("fc.input_scale", (16, 16), "scales"),
        ("mlp.experts.gate_up_proj_bias", (8, 128), "a bias"),
        ("mlp.experts.down_proj_bias", (32, 2880), "a bias"),
        ("attn.relative_position_bias_table", (16, 16), "a bias"),
        ("block.0.relative_attention_bias.weight", (32, 8), "a bias"),
        ("mlp.router.weight", (8, 16), "routes samples"),
        ("mlp.router.classifier.weight", (8, 16), "routes samples"),
        ("attn.q_norm.weight", (8, 16), "a norm"),  # Cohere: heads, dimensions
        ("ln_1.weight", (8, 16, 16), "a norm"),
        ("layer_norm.weight", (4, 8, 8), "a norm"),
        ("q_proj.lora_A.weight", (8, 16), "an adapter"),
        ("q_proj.lora_B.default.weight", (16, 8), "an adapter"),
        ("mixer.A_log", (16, 16), "decays"),
        ("time_mixing.time_decay", (16, 64), "decays"),
        ("conv.weight_v", (16, 16, 3), "normed"),
        ("parametrizations.weight.original1", (16, 16), "normed"),
        ("state.exp_avg", (16, 16), "an optimizer"),
        ("cls_token", (1, 1, 16), "embedding"),
        ("query_tokens", (1, 32, 768), "embedding"),
        ("lm_head.weight", (32, 16), "the output head"),
        ("embed_out.weight", (32, 16), "embedding"),
        ("classifier.weight", (10, 16), "the output head"),
        ("small.weight", (16, 3), "16 x 3, smaller than a 4 x 4 tile"),
        ("small.weight", (2, 16), "2 x 16, smaller"),
        ("dw.weight", (32, 1, 3, 3), "--groups"),
        ("conv1d.weight", (1536, 1, 4), "depthwise"),  # Mamba
        ("one", (1, 1, 8), "smaller"),
    ],
)
def test_what_is_no_weight_is_listed_with_its_reason(name, shape, reason):
    found = reasons({name: (shape, "float32")})
    assert list(found) == [name]
    assert reason in found[name]
    assert list(reasons({name: (shape, "float16")})) == [name]  # in half precision too


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mlp.gate_proj.weight", (16, 16)),
        ("mlp.gate.weight", (16, 16)),  # without experts, a matrix of the MLP
        ("experts.0.gate.weight", (16, 16)),
        ("norm1.linear.weight", (16, 16)),  # of an adaptive norm
        ("mask_decoder.fc.weight", (16, 16)),
        ("scale_mlp.0.weight", (16, 16)),
        ("fc.weight", (16, 16)),
        ("head.weight", (16, 16)),
        ("fc.weight_orig", (16, 16)),
    ],
)
def test_weights_with_names_like_those_are_weights(name, shape):
    assert reasons({name: (shape, "float32")}) == {}


EXPERTS = {"mlp.experts.gate_up_proj": ((8, 16, 32), "bfloat16"), "mlp.experts.down_proj": ((8, 16, 16), "bfloat16")}


@pytest.mark.parametrize("gate", ["mlp.gate.weight", "block_sparse_moe.gate.weight", "mlp.shared_expert_gate.weight"])
def test_among_experts_a_gate_routes(gate):
    assert "routes samples" in reasons(EXPERTS | {gate: ((8, 16), "float32")})[gate]


def test_an_output_that_is_shaped_like_the_embedding_stays_dense():
    tensors = {"tok_embeddings.weight": ((64, 16), "float32"), "output.weight": ((64, 16), "float32")}
    assert set(reasons(tensors)) == set(tensors)
    assert "output.weight" not in reasons({"output.weight": ((64, 16), "float32")})


def test_globs_bring_embeddings_but_no_routers_and_norms():
    tensors = EXPERTS | {"mlp.gate.weight": ((8, 16), "float32"), "lm_head.weight": ((8, 16), "float32")}
    assert set(reasons(tensors, include=["*"])) == {"mlp.gate.weight"}
    assert "mlp.gate.weight" not in reasons(tensors, include=["mlp.gate.weight"])
    assert "mlp.gate.weight" not in reasons(tensors, include=[r"^mlp\.gate\.weight$"], regex=True)


@pytest.mark.parametrize(
    ("name", "dtype", "companion"),
    [
        ("fc.weight", "int8", "fc.weight_scale"),
        ("fc.weight", "float8_e4m3fn", "fc.weight_scale_inv"),
        ("fc.weight", "uint8", "fc.weight.absmax"),  # bitsandbytes, 4 bits
        ("fc.weight", "int8", "fc.SCB"),
        ("fc.weight", "uint32", "fc.scales"),  # MLX
        ("fc.qweight", "int32", "fc.scales"),  # GPTQ, AWQ
        ("fc.weight_packed", "int32", "fc.weight_scale"),
        ("experts.gate_up_proj_blocks", "uint8", "experts.gate_up_proj_scales"),  # GPT-OSS
        ("fc.W_q", "uint8", "fc.scale"),  # HQQ
        ("fc.weight.compressed", "float16", "fc.weight.bitmask"),  # zeros left out
        ("fc.weight", "int8", "elsewhere"),
    ],
)
def test_quantised_files_are_refused_with_what_to_do(name, dtype, companion):
    tensors = {name: ((16, 16), dtype), companion: ((16, 1), "float32")}
    with pytest.raises(tmask.FileFormatError, match=r"is quantised: .* Dequantise the model first") as caught:
        reasons(tensors)
    assert name in str(caught.value)
    skipped = reasons(tensors, include=["mlp*"])  # other layers of it can be masked
    assert skipped[name] == "not included"
    assert "not included" in skipped[companion]


def test_a_companion_names_its_weight():
    tensors = {"fc.weight": ((16, 16), "int8"), "fc.weight_scale": ((16, 16), "float32")}
    assert reasons(tensors, exclude=["fc.weight"])["fc.weight_scale"] == "it belongs to the quantised fc.weight"


@pytest.mark.parametrize(
    ("name", "shape", "layout"),
    [
        ("mlp.experts.gate_up_proj", (8, 16, 32), "stack"),
        ("feed_forward.experts.down_proj", (8, 16, 32), "stack"),
        ("ffn.experts.w1", (2, 8, 16, 32), "stack"),
        ("encoder.conv1.weight", (16, 16, 3), "convolution"),
        ("conv_layers.0.conv.weight", (16, 16, 10), "convolution"),
        ("layer.weight", (16, 16, 3, 3), "convolution"),
        ("layer.weight", (16, 16), "matrix"),
    ],
)
def test_layouts_that_names_and_shapes_tell(name, shape, layout):
    (found,) = select_layers(file({name: (shape, "float32")}), side=4).layers
    assert found.layout == layout


def test_a_layout_that_nothing_tells_is_refused_until_it_is_said():
    tensors = file({"w": ((8, 16, 16), "float32"), "fc": ((8, 8), "float32")})
    with pytest.raises(tmask.InvalidProblemError, match=r"stacks of matrices.*--layout 'w=stack'"):
        select_layers(tensors)
    assert select_layers(tensors, layouts={"w": "stack"}).layers[0].layout == "stack"
    assert select_layers(tensors, layouts={"w": "convolution"}).layers[0].layout == "convolution"
    assert [layer.name for layer in select_layers(tensors, exclude=["w"]).layers] == ["fc"]
    with pytest.raises(tmask.InvalidProblemError, match="choose from"):
        select_layers(tensors, layouts={"w": "experts"})


def test_the_config_tells_a_stack_and_the_method(tmp_path):
    config = {
        "model_type": "x",
        "text_config": {"num_local_experts": 8},
        "quantization_config": {"quant_method": "fp8"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    path = tmp_path / "model.safetensors"
    (found,) = select_layers(file({"mlp.w1": ((8, 16, 16), "float32")}, path)).layers
    assert found.layout == "stack"
    with pytest.raises(tmask.FileFormatError, match=r"is quantised \(fp8\)"):
        select_layers(file({"fc.weight": ((8, 16), "float8_e4m3fn")}, path))


def test_a_depthwise_convolution_that_is_named_has_its_groups():
    (found,) = select_layers(file({"dw.weight": ((32, 1, 3, 3), "float32")}), ["dw.weight"], side=4).layers
    assert found.groups == 32
    weight = np.random.default_rng(0).standard_normal(found.shape)
    assert tmask.solve(weight, "2:4", groups=found.groups).retained == 1


def test_convolutions_come_with_a_remark_on_groups():
    tensors = file({f"layers.{i}.conv.weight": ((16, 4, 3, 3), "float32") for i in range(3)})
    (remark,) = select_layers(tensors).remarks
    assert "layers.*.conv.weight (3)" in remark
    assert "--groups" in remark
    assert select_layers(tensors, groups={"*": 4}).remarks == []


def test_a_weight_is_read_through_the_mask_beside_it(tmp_path):
    torch = pytest.importorskip("torch")
    from torch.nn.utils import prune

    model = torch.nn.Sequential(torch.nn.Linear(16, 16))
    prune.random_unstructured(model[0], "weight", 0.7)
    torch.save(model.state_dict(), tmp_path / "m.pt")
    source = open_weights(tmp_path / "m.pt")
    np.testing.assert_array_equal(source.read("0.weight_orig").values(), model[0].weight.detach().numpy())
    selection = select_layers(source)
    assert [layer.name for layer in selection.layers] == ["0.weight_orig"]
    assert {item.name: item.reason for item in selection.skipped}["0.weight_mask"] == "a mask, by its name"


def test_a_sparsified_state_is_read_through_its_masks(tmp_path):
    torch = pytest.importorskip("torch")
    from tmask.nn import sparsify

    model = torch.nn.Sequential(torch.nn.Linear(16, 16))
    sparsify(model, "2:4")
    torch.save(model.state_dict(), tmp_path / "m.pt")
    source = open_weights(tmp_path / "m.pt")
    (layer,) = select_layers(source, side=4).layers
    np.testing.assert_array_equal(source.read(layer.name).values() != 0, model[0].weight.detach().numpy() != 0)

"""Layer selection to the letter: the whole list, the names of embeddings, the texts of errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tmask
from tmask.files.layers import Layer, Skipped, select_layers
from tmask.files.weight_file import WeightFile

MODEL = {
    "embed_tokens.weight": ((8, 4), "float32"),
    "layers.0.conv.weight": ((8, 2, 3, 3), "bfloat16"),
    "layers.0.conv.bias": ((8,), "float32"),
    "layers.0.fc.weight": ((4, 8), "float16"),
    "layers.10.fc.weight": ((4, 8), "float64"),
    "codes": ((4, 4), "int8"),
    "fp8": ((4, 4), "float8_e4m3fn"),
    "none": ((0, 4), "float32"),
    "steps": ((), "int64"),
    "lm_head.weight": ((8, 4), "float32"),
}


def model(tensors=MODEL):
    return WeightFile(
        Path("model.safetensors"),
        {name: shape for name, (shape, _) in tensors.items()},
        {name: dtype for name, (_, dtype) in tensors.items()},
        lambda name: pytest.fail("contents are not needed"),
    )


def names(selection):
    return [layer.name for layer in selection.layers]


def fails(*texts, **options):
    with pytest.raises(tmask.InvalidProblemError) as caught:
        select_layers(model(), **options)
    for text in texts:
        assert text in str(caught.value)


def test_by_default_every_floating_matrix_but_embeddings():
    selection = select_layers(model())
    assert selection.layers == [
        Layer("layers.0.conv.weight", *MODEL["layers.0.conv.weight"], layout="convolution"),
        *(Layer(name, *MODEL[name]) for name in ("layers.0.fc.weight", "layers.10.fc.weight")),
    ]
    assert selection.skipped == [
        Skipped("embed_tokens.weight", (8, 4), "an embedding by its name (include it to mask it)"),
        Skipped("layers.0.conv.bias", (8,), "1-D, no matrix"),
        Skipped("codes", (4, 4), "dtype int8"),
        Skipped("fp8", (4, 4), "dtype float8_e4m3fn"),
        Skipped("none", (0, 4), "empty"),
        Skipped("steps", (), "0-D, no matrix"),
        Skipped("lm_head.weight", (8, 4), "the output head, by its name (include it to mask it)"),
    ]


@pytest.mark.parametrize(
    ("name", "embedding"),
    [
        ("wte.weight", True),
        ("transformer.wpe.weight", True),
        ("tok_emb.weight", True),
        ("pos_emb", True),
        ("encoder.word_embeddings.weight", True),
        ("Embedding_0", True),
        ("model.embed_tokens.weight", True),
        ("member.weight", False),
        ("assembled.weight", False),
        ("swtenet.weight", False),
    ],
)
def test_embeddings_are_known_by_name(name, embedding):
    selection = select_layers(model({name: ((4, 4), "float32"), "fc": ((4, 4), "float32")}))
    assert (name not in names(selection)) == embedding


def test_globs_and_regular_expressions():
    assert names(select_layers(model(), ["*fc*"])) == ["layers.0.fc.weight", "layers.10.fc.weight"]
    assert names(select_layers(model(), ["*fc*"], ["layers.10.*"])) == ["layers.0.fc.weight"]
    assert names(select_layers(model(), [r"layers\.\d\."], regex=True)) == [
        "layers.0.conv.weight",
        "layers.0.fc.weight",
    ]
    assert names(select_layers(model(), exclude=[r"^layers\.0"], regex=True)) == ["layers.10.fc.weight"]
    fails("matches no tensor", include=["*FC*"])  # the case counts


def test_include_overrides_the_embedding_rule_alone():
    selection = select_layers(model(), ["embed*", "*.bias", "codes"])
    assert names(selection) == ["embed_tokens.weight"]
    reasons = {item.name: item.reason for item in selection.skipped}
    assert reasons["layers.0.conv.bias"] == "1-D, no matrix"
    assert reasons["codes"] == "dtype int8"


def test_filters_that_match_nothing_list_what_there_is():
    for options in ({"include": ["lm_haed.weight"]}, {"exclude": ["lm_haed*"]}, {"groups": {"lm_haed.*": 2}}):
        fails("lm_haed", "matches no tensor of model.safetensors", "did you mean lm_head.weight", "steps", **options)
    many = model({f"layer{i}": ((4, 4), "float32") for i in range(40)})
    with pytest.raises(tmask.InvalidProblemError, match=r"layer9, \.\.\.$"):
        select_layers(many, ["zzz"])


def test_broken_requests():
    fails("'(' is no regular expression", include=["("], regex=True)
    fails("give a list", include="lm_head*")
    fails("no layer is left to mask", "0.conv.bias: 1-D", include=["*.bias"])
    with pytest.raises(tmask.InvalidProblemError, match="it holds no tensors"):
        select_layers(model({}))


@example({"_orig_mod": ((), "float32"), "base_layer.original_module": ((4, 4), "float32")})
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=12),
        st.tuples(
            st.lists(st.integers(0, 3), max_size=4).map(tuple), st.sampled_from(["float32", "bfloat16", "int8", "f4"])
        ),
    )
)
def test_no_tensor_is_lost(tensors):
    file = model(tensors | {"fc": ((4, 4), "float32")})
    selection = select_layers(file, layouts={"*": "stack"})
    assert sorted(names(selection) + [item.name for item in selection.skipped]) == sorted(file.names)
    assert all(item.reason for item in selection.skipped)

"""Which layers get masks, and that every other tensor is listed with its reason."""

import numpy as np
import pytest

from tmask.errors import InvalidProblemError
from tmask.files.layers import select_layers
from tmask.files.tensors import from_numpy
from tmask.files.weight_file import WeightFile

SHAPES = {
    "model.embed_tokens.weight": (8, 4),
    "transformer.wte.weight": (8, 4),
    "pos_emb": (8, 4),
    "layers.0.attn.weight": (4, 4),
    "layers.0.attn.bias": (4,),
    "layers.1.conv.weight": (4, 2, 3, 3),
    "lm_head.weight": (8, 4),
    "scalar": (),
    "empty": (0, 4),
    "codes": (4, 4),
}
DTYPES = {name: "int8" if name == "codes" else "float32" for name in SHAPES}
FILE = WeightFile("model", SHAPES, DTYPES, lambda name: from_numpy(np.zeros(SHAPES[name], np.float32)))


def names(selection):
    return [layer.name for layer in selection.layers]


def test_matrices_are_masked_and_the_rest_is_listed():
    selection = select_layers(FILE)
    assert names(selection) == ["layers.0.attn.weight", "layers.1.conv.weight"]
    reasons = {item.name: item.reason for item in selection.skipped}
    assert set(reasons) | set(names(selection)) == set(SHAPES)
    assert reasons["layers.0.attn.bias"] == "1-D, no matrix"
    assert reasons["scalar"] == "0-D, no matrix"
    assert reasons["empty"] == "empty"
    assert reasons["codes"] == "dtype int8"
    assert reasons["lm_head.weight"] == "the output head, by its name (include it to mask it)"
    for name in ("model.embed_tokens.weight", "transformer.wte.weight", "pos_emb"):
        assert reasons[name].startswith("an embedding by its name")


def test_an_embedding_is_masked_if_it_is_named():
    assert names(select_layers(FILE, include=["*embed*"])) == ["model.embed_tokens.weight"]


def test_a_bias_is_not_even_then():
    selection = select_layers(FILE, include=["layers.0.*"])
    assert names(selection) == ["layers.0.attn.weight"]


def test_include_then_exclude():
    assert names(select_layers(FILE, include=["layers.*"], exclude=["*conv*"])) == ["layers.0.attn.weight"]
    reasons = {s.name: s.reason for s in select_layers(FILE, include=["layers.*"], exclude=["*conv*"]).skipped}
    assert reasons["layers.1.conv.weight"] == "excluded"
    assert reasons["lm_head.weight"] == "not included"


def test_regular_expressions_match_anywhere():
    assert names(select_layers(FILE, include=[r"\.\d\."], regex=True)) == [
        "layers.0.attn.weight",
        "layers.1.conv.weight",
    ]


def test_groups_go_with_the_layers_they_name():
    groups = {layer.name: layer.groups for layer in select_layers(FILE, groups={"*conv*": 2}).layers}
    assert groups["layers.1.conv.weight"] == 2
    assert groups["layers.0.attn.weight"] == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"include": ["layer.0.attn.weight"]}, r"matches no tensor.*did you mean layers\.0\.attn\.weight"),
        ({"exclude": ["nothing"]}, "'nothing' matches no tensor of model"),
        ({"groups": {"nothing": 2}}, "'nothing' matches no tensor"),
        ({"include": ["("], "regex": True}, "is no regular expression"),
        ({"include": ["scalar"]}, "no layer is left to mask"),
    ],
)
def test_filters_that_leave_nothing_say_so(arguments, says):
    with pytest.raises(InvalidProblemError, match=says):
        select_layers(FILE, **arguments)


@pytest.mark.parametrize("pattern", ["(", "[", "a**", "a{99999999999999}", "(" * 50_000])
@pytest.mark.parametrize("option", ["include", "exclude", "groups"])
def test_broken_regular_expressions_are_refused_wherever_they_stand(option, pattern):
    with pytest.raises(InvalidProblemError, match="is no regular expression"):
        select_layers(FILE, regex=True, **{option: {pattern: 2} if option == "groups" else [pattern]})


@pytest.mark.parametrize("pattern", ["[", "[!", "[z-a]", "\\", "", "LAYERS.*"])
def test_odd_globs_match_nothing_and_say_what_there_is(pattern):
    with pytest.raises(InvalidProblemError, match=r"matches no tensor of model.*it holds .*lm_head\.weight"):
        select_layers(FILE, include=[pattern])


def test_groups_by_regular_expression_and_the_first_that_matches():
    groups = {r"conv": 2, r"layers": 4}
    selection = select_layers(FILE, groups=groups, regex=True)
    assert {layer.name: layer.groups for layer in selection.layers} == {
        "layers.0.attn.weight": 4,
        "layers.1.conv.weight": 2,
    }

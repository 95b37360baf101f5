"""Mask diversity of the layers of a model in memory."""

from __future__ import annotations

import pytest
from torch import nn

from tests.nn.pruning_models import conv_net
from tmask import diversity
from tmask.errors import InvalidProblemError
from tmask.nn import model_diversity


def test_layers_count_as_their_shapes_and_groups():
    model = conv_net()
    found = model_diversity(model, "2:4")
    assert list(found) == ["stem.weight", "conv1.weight", "conv2.weight", "head.weight"]
    for name, constraints in found.items():
        module = model.get_submodule(name.removesuffix(".weight"))
        assert list(constraints) == list(diversity.CONSTRAINTS)
        for constraint, one in constraints.items():
            groups = getattr(module, "groups", 1)
            assert one == diversity.tensor_diversity(tuple(module.weight.shape), "2:4", constraint, groups=groups)
    assert found["conv2"]["structured"].groups == 2
    assert list(model_diversity(model, "2:4", ["plain"])["head"]) == ["plain"]


def test_bad_input():
    with pytest.raises(InvalidProblemError, match="no linear or convolution layer"):
        model_diversity(nn.ReLU(), "2:4")
    with pytest.raises(InvalidProblemError, match=r"shapes is a ConvNet; .* tmask\.nn\.model_diversity"):
        diversity.model_diversity(conv_net(), "2:4")

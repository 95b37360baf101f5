"""What the axes of a weight mean: said, known, or asked for; and that tiles lie where they should."""

from __future__ import annotations

import numpy as np
import pytest

import tmask
from tmask.blocks.layouts import in_words, read_layout
from tmask.conversion import fitting_pattern
from tmask.diversity import model_diversity, tensor_diversity

RNG = np.random.default_rng(0)
OPEN = [
    (8, 16, 16),  # experts, or a Conv1d
    (4, 8, 3),
    (3, 3, 64, 128),  # a kernel of Keras or JAX: height, width, inputs, outputs
    (3, 3, 3, 64),
    (2, 8, 32, 16),  # layers, experts, rows, columns
    (8, 16, 16, 16),
    (2, 2, 4, 32, 32),
]


def counts(mask, n, m):
    """Whether all matrices in the last two axes keep n of every m both ways."""
    rows, cols = mask.shape[-2:]
    tiles = mask.reshape(-1, rows // m, m, cols // m, m)
    return (tiles.sum(2) == n).all() and (tiles.sum(4) == n).all()


@pytest.mark.parametrize("shape", OPEN)
def test_a_shape_that_leaves_it_open_is_refused_with_the_words_to_say(shape):
    weight = RNG.standard_normal(shape)
    mask = np.ones(shape, bool)
    for call in (
        lambda: tmask.solve(weight, "2:4"),
        lambda: tmask.certify(weight, mask, "2:4"),
        lambda: tmask.check_mask(mask, "2:4"),
        lambda: tensor_diversity(shape, "2:4"),
        lambda: model_diversity({"w": shape}, "2:4"),
        lambda: fitting_pattern(weight, 4),
    ):
        with pytest.raises(tmask.InvalidProblemError, match=r"layout='stack' or layout='convolution'"):
            call()


@pytest.mark.parametrize("shape", [(8, 16, 16), (2, 3, 16, 8), (3, 3, 8, 16)])
@pytest.mark.parametrize("solver", ["auto", "networkx-simplex"])
def test_a_stack_is_tiled_along_its_last_axes(shape, solver):
    weight = RNG.standard_normal(shape).astype(np.float32)
    found = tmask.solve(weight, "2:4", solver, layout="stack")
    assert counts(found.mask, 2, 4)
    assert found.layout == "stack"
    assert "stack" in repr(found)
    tmask.check_mask(found.mask, "2:4", layout="stack")
    assert tmask.certify(weight, found.mask, "2:4", layout="stack").optimal
    one_by_one = [tmask.solve(each, "2:4").mask for each in weight.reshape(-1, *shape[-2:])]
    np.testing.assert_array_equal(found.mask.reshape(-1, *shape[-2:]), one_by_one)


def test_a_stack_with_tiles_cut_short_and_in_groups():
    weight = RNG.standard_normal((3, 10, 7))
    found = tmask.solve(weight, "2:4", layout="stack", groups=2)
    assert found.optimality_gap == 0
    for each, mask in zip(weight, found.mask, strict=True):
        np.testing.assert_array_equal(mask, tmask.solve(each, "2:4", groups=2).mask)


def test_a_transposed_stack_has_the_transposed_masks():
    """So (experts, in, out) and (experts, out, in) are one layout."""
    weight = RNG.standard_normal((4, 8, 16))
    there = tmask.solve(weight, "2:4", layout="stack").mask
    back = tmask.solve(np.ascontiguousarray(weight.swapaxes(1, 2)), "2:4", layout="stack").mask
    np.testing.assert_array_equal(there, back.swapaxes(1, 2))


def test_tensors_are_read_alike():
    torch = pytest.importorskip("torch")
    weight = torch.from_numpy(RNG.standard_normal((4, 8, 16)))
    for solver in ("auto", "midpoint-torch"):
        assert counts(tmask.solve(weight, "2:4", solver, layout="stack").mask.numpy(), 2, 4)


def test_a_broken_stack_names_the_matrix():
    mask = tmask.solve(RNG.standard_normal((4, 8, 8)), "2:4", layout="stack").mask
    mask[2, 5, 1] = not mask[2, 5, 1]
    with pytest.raises(tmask.InvalidMaskError, match=r"rows 4-7, columns 0-3, matrix \(2,\)"):
        tmask.check_mask(mask, "2:4", layout="stack")


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (64, 3, 7, 7), (768, 3, 16, 16), (32, 1, 8, 8), (8, 4, 3, 3, 3)])
def test_the_usual_convolutions_need_no_word(shape):
    assert read_layout(shape) == "convolution"
    assert tmask.solve(RNG.standard_normal(shape), "2:4").layout == "convolution"


def test_one_dimensional_convolutions_with_the_word():
    weight = RNG.standard_normal((8, 8, 3))
    found = tmask.solve(weight, "2:4", layout="convolution")
    np.testing.assert_array_equal(found.mask, tmask.solve(weight[..., None], "2:4").mask[..., 0])


@pytest.mark.parametrize("word", ["matrix", "stack", "convolution"])
def test_two_axes_are_a_matrix_whatever_is_said(word):
    assert tmask.solve(RNG.standard_normal((8, 8)), "2:4", layout=word).layout == "matrix"


@pytest.mark.parametrize(("shape", "word"), [((8, 8), "experts"), ((8, 8, 8), "matrix"), ((8, 8, 8), "")])
def test_words_that_do_not_fit(shape, word):
    with pytest.raises(tmask.InvalidProblemError, match=r"choose from|is no matrix"):
        tmask.solve(RNG.standard_normal(shape), "2:4", layout=word)


def test_layouts_in_words():
    assert in_words((4, 8, 8), "stack") == "stack of 4"
    assert in_words((8, 4, 3, 3), "convolution", 2) == "convolution, 2 groups"
    assert in_words((8, 8), "matrix") == "matrix"


def test_a_conv1d_of_a_module_is_known():
    torch = pytest.importorskip("torch")
    from tmask.nn import export, model_diversity, sparsify

    model = torch.nn.Sequential(torch.nn.Conv1d(8, 8, 3), torch.nn.Conv1d(8, 8, 8))
    assert set(model_diversity(model, "2:4")) == {"0.weight", "1.weight"}
    sparsify(model, "2:4")
    export(model)
    for layer in model:
        tmask.check_mask(layer.weight.detach() != 0, "2:4", layout="convolution")

"""Pictures of masks show what the mask says."""

import numpy as np
import pytest

import tmask
from tests.strategies import make_blocks
from tmask.showing.mask_pictures import draw_mask, mask_corner, mask_svg


def mask_of(shape, pattern="2:4"):
    return tmask.solve(np.random.default_rng(0).standard_normal(shape).astype(np.float32), pattern, "ortools-flow").mask


@pytest.mark.parametrize(("shape", "kept"), [((16, 16), 128), ((100, 100), 288), ((8, 8, 3, 3), 32)])
def test_each_kept_entry_of_the_corner_is_a_cell(shape, kept):
    pytest.importorskip("ortools")
    mask = mask_of(shape)
    svg = mask_svg(mask, 4)
    assert svg.count("h1v1h-1z") == kept == mask_corner(mask, 24).sum()
    i, j = np.argwhere(mask_corner(mask, 24))[7]
    assert f"M{j} {i}h1" in svg


def test_tensors_are_drawn_as_arrays_are():
    torch = pytest.importorskip("torch")
    mask = make_blocks("normal", 1, 16)[0] > 1
    assert mask_svg(torch.from_numpy(mask), 8) == mask_svg(mask, 8)


def test_the_figure_has_the_mask_and_its_title():
    pytest.importorskip("matplotlib")
    mask = np.eye(8, dtype=bool)
    figure = draw_mask(mask, 4, "an identity")
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.collections[0].get_array().reshape(8, 8), mask)
    assert figure.get_suptitle() == "an identity"
    assert len(axes.lines) == 6
    assert figure._repr_png_().startswith(b"\x89PNG")  # what a notebook asks for

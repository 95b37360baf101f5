import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tmask
from tests.test_contract import all_regular


@given(st.integers(0, 89), st.integers(0, 15))
def test_every_transposable_mask_passes_and_every_flip_of_it_fails(which, flip):
    mask = all_regular(2, 4)[which].copy()
    tmask.check_mask(mask, "2:4")
    mask.flat[flip] ^= True
    with pytest.raises(tmask.InvalidMaskError, match="rows 0-3, columns 0-3"):
        tmask.check_mask(mask, "2:4")


def test_row_wise_masks_are_not_transposable():
    mask = np.tile(np.array([True, True, False, False]), (4, 1))
    with pytest.raises(tmask.InvalidMaskError, match="keeps 4 in its column 0, exactly 2 allowed"):
        tmask.check_mask(mask, "2:4")


def test_edges_may_keep_fewer_but_not_more():
    mask = np.zeros((4, 6), bool)
    mask[:, :4] = all_regular(2, 4)[0]
    tmask.check_mask(mask, "2:4")
    mask[:3, 5] = True
    with pytest.raises(tmask.InvalidMaskError, match="rows 0-3, columns 4-5 keeps 3 in its column 1, at most 2"):
        tmask.check_mask(mask, "2:4")


def test_places_in_grouped_convolutions_are_named():
    weight = np.random.default_rng(0).standard_normal((8, 4, 3, 3)).astype(np.float32)
    mask = tmask.solve(weight, "2:4", solver="networkx-simplex", groups=2).mask
    tmask.check_mask(mask, "2:4", groups=2)
    mask[5, 1, 2, 0] ^= True
    with pytest.raises(tmask.InvalidMaskError, match=r"rows 4-7, columns 0-3, kernel position \(2, 0\)"):
        tmask.check_mask(mask, "2:4", groups=2)


def test_a_mask_is_bool():
    with pytest.raises(tmask.InvalidProblemError, match="must be bool, True = kept"):
        tmask.check_mask(np.ones((4, 4), np.uint8), "2:4")

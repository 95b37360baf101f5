"""The callable by the signature that Apex documents: Apex itself needs CUDA to be built."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tmask
from tmask.nn.integrations.asp import create_mask


class RecordedASP:
    """What Apex does with a mask_calculator: a bool buffer of ones takes what it returns for the parameter."""

    @staticmethod
    def mask(parameter, mask_calculator):
        buffer = torch.ones_like(parameter).bool()
        buffer.set_(mask_calculator(parameter))
        return buffer


@given(
    rows=st.integers(4, 20),
    cols=st.integers(4, 20),
    kernel=st.sampled_from([(), (3,), (2, 2)]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=30)
def test_it_gives_the_exact_mask_as_asp_takes_it(rows, cols, kernel, dtype, seed):
    weight = torch.randn((rows, cols, *kernel), generator=torch.Generator().manual_seed(seed)).to(dtype)
    parameter = torch.nn.Parameter(weight)
    mask = RecordedASP.mask(parameter, create_mask)
    solution = tmask.solve(weight, "2:4", layout="convolution")
    assert torch.equal(mask, solution.mask)
    tmask.check_mask(mask, "2:4", layout="convolution")


@pytest.mark.parametrize(
    ("pattern", "same"),
    [
        ("m4n2_2d_best", ("2:4", "auto")),
        ("m8n4_2d_best", ("4:8", "auto")),
        ("m4n1_2d_best", ("1:4", "auto")),
        ("m8n4_2d_greedy", ("4:8", "greedy-keep")),
        ("1:4", ("1:4", "auto")),
    ],
)
def test_patterns_in_the_words_of_apex(pattern, same):
    weight = torch.randn((16, 24), generator=torch.Generator().manual_seed(1))
    expected = tmask.solve(weight, *same, layout="convolution").mask
    assert torch.equal(create_mask(weight, pattern), expected)
    assert torch.equal(RecordedASP.mask(weight, functools.partial(create_mask, pattern=pattern)), expected)


@pytest.mark.parametrize("pattern", ["m4n2_1d", "m4n2_1d_best", "m4n2_2d", "unstructured", "m4n5_2d_best", ""])
def test_other_patterns_are_refused(pattern):
    with pytest.raises(tmask.InvalidProblemError):
        create_mask(torch.ones(8, 8), pattern)


def test_one_direction_is_refused_with_what_exists():
    with pytest.raises(tmask.InvalidProblemError, match="m4n2_2d_best and m4n2_2d_greedy"):
        create_mask(torch.ones(8, 8), "m4n2_1d")


def test_a_vector_has_no_blocks():
    with pytest.raises(tmask.InvalidProblemError, match="axes"):
        create_mask(torch.ones(8))

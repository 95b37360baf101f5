import numpy as np
import pytest

import tmask
from tmask.blocks.arrays import to_scores
from tmask.errors import InvalidProblemError


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (np.ones((4, 4), int), "dtype int64"),
        (np.ones((4, 4), complex), "dtype complex128"),
        (np.ones((4, 4), bool), "dtype bool"),
        ([[1.0, 2.0]], "is a list"),
        (None, "is a NoneType"),
        (np.full((4, 4), np.nan), r"16 NaN or infinite values \(16 NaN\), first at index \(0, 0\)"),
        (np.array([[1, 2], [np.inf, 0]]), r"1 NaN or infinite values \(0 NaN\), first at index \(1, 0\)"),
        (np.full((4, 4), 1e308), "overflows"),
    ],
)
def test_bad_weights_are_named(weight, says):
    with pytest.raises(InvalidProblemError, match=says):
        to_scores(weight)


@pytest.mark.parametrize(
    ("score", "says"),
    [
        (np.ones((4, 5)), r"shape \(4, 5\), but weight has shape \(4, 4\)"),
        (-np.eye(4), r"4 negative values, first at index \(0, 0\)"),
        (np.full((4, 4), np.nan), "score: 16 NaN"),
        (np.ones((4, 4), int), "score has dtype int64"),
    ],
)
def test_bad_scores_are_named(score, says):
    with pytest.raises(InvalidProblemError, match=says):
        to_scores(np.ones((4, 4)), score)


@pytest.mark.parametrize("shape", [(), (4,), (0, 4)])
def test_shapes_without_blocks(shape):
    with pytest.raises(InvalidProblemError):
        tmask.solve(np.ones(shape), "2:4", solver="networkx-simplex")


@pytest.mark.parametrize(
    ("dtype", "kept"), [(np.float16, np.float32), (np.float32, np.float32), (np.float64, np.float64)]
)
def test_scores_keep_every_bit(dtype, kept):
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype(dtype)
    scores = to_scores(weight)
    assert scores.dtype == kept
    np.testing.assert_array_equal(scores, np.abs(weight))


def test_torch_tensors_come_back_as_torch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        weight = torch.nn.Parameter(torch.randn(8, 8).to(dtype))
        solution = tmask.solve(weight, "2:4", solver="networkx-simplex")
        assert isinstance(solution.mask, torch.Tensor)
        assert solution.mask.dtype == torch.bool
        assert solution.mask.shape == weight.shape
        assert solution.mask.device == weight.device
        same = tmask.solve(weight.detach().double().numpy(), "2:4", solver="networkx-simplex")
        assert solution.objective == pytest.approx(same.objective, rel=1e-12)
        tmask.check_mask(solution.mask, "2:4")
        assert tmask.certify(weight, solution.mask, "2:4").optimal


def test_torch_views_and_strides_do_not_matter():
    torch = pytest.importorskip("torch")
    weight = torch.arange(64.0).reshape(8, 8).t()[::2]
    mask = tmask.solve(weight, "2:4", solver="networkx-simplex").mask
    np.testing.assert_array_equal(
        mask.numpy(), tmask.solve(weight.numpy().copy(), "2:4", solver="networkx-simplex").mask
    )


def test_torch_tensors_without_dense_data_are_refused():
    torch = pytest.importorskip("torch")
    for weight, says in [
        (torch.empty(4, 4, device="meta"), "meta tensor"),
        (torch.eye(4).to_sparse(), "sparse_coo tensor"),
        (torch.ones(4, 4, dtype=torch.int8), "dtype int8"),
    ]:
        with pytest.raises(InvalidProblemError, match=says):
            tmask.solve(weight, "2:4")


def test_a_negative_zero_is_a_zero():
    score = np.full((4, 4), -0.0, np.float32)
    assert not np.signbit(to_scores(np.ones((4, 4), np.float32), score)).any()

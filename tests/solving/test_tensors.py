"""Masks of tensors where they lie. CPU tensors stand for those on a device; what needs one is skipped without."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tmask
from tests.strategies import KINDS, make_blocks
from tmask.blocks.pattern import Pattern
from tmask.blocks.tiling import Tiling
from tmask.judging.duals import proves_optimal
from tmask.solving import devices
from tmask.solving.registry import device_solver, get_solver

torch = pytest.importorskip("torch")

from tmask.blocks.tensor_blocks import cut_region, cut_tiles, join_padded, padded_blocks, pieces, to_matrices  # noqa: E402
from tmask.judging import tensor_judging  # noqa: E402
from tmask.judging.examining import examine_all  # noqa: E402
from tmask.solving.device_masks import DeviceMasks, Sums  # noqa: E402
from tmask.solving.devices import solve_on_device, stays_on_device  # noqa: E402
from tmask.solving.region_answer import make_solution  # noqa: E402
from tmask.solving.request import Request  # noqa: E402
from tmask.solving.tensor_solver import TensorAnswer, TensorProof, TensorSolver  # noqa: E402

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SHAPES = [((16, 24), 1), ((13, 18), 1), ((12, 5, 3, 2), 1), ((12, 6, 3, 1), 3), ((3, 2), 1), ((16, 1, 3, 3), 16)]


def weight_of(shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def on_device(weight, pattern, solver=None, **options):
    if isinstance(solver, str):
        solver = get_solver(solver)
    request = Request(weight, Pattern.parse(pattern), solver, **options)
    mask, answers = solve_on_device(request)
    return make_solution(mask, request.pattern, answers)


@dataclass(frozen=True)
class Fixed(TensorSolver):
    """Answers with what it was given, per block."""

    mask: tuple = ()
    prices: tuple = ()
    slack: float | None = None
    name: ClassVar[str] = "fixed"
    exact: ClassVar[bool] = False

    def solve_tensor(self, scores, n):
        mask = torch.tensor(self.mask, dtype=torch.bool).expand(scores.shape).clone()
        prices = torch.tensor(self.prices).expand(scores.shape[:2]).clone() if self.prices else None
        slack = None if self.slack is None else torch.tensor(self.slack, dtype=torch.float64)
        return TensorAnswer(mask, col_prices=prices, slack=slack)


@dataclass(frozen=True)
class ClaimsToBeExact(Fixed):
    """The same, with a claim."""

    exact: ClassVar[bool] = True


BAND = tuple(tuple((j - i) % 4 < 2 for j in range(4)) for i in range(4))


@pytest.mark.parametrize(("shape", "groups"), SHAPES)
@pytest.mark.parametrize("pattern", ["2:4", "3:5", "4:4"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_it_agrees_with_the_way_through_arrays(shape, groups, pattern, dtype):
    weight = weight_of(shape, getattr(torch, dtype))
    mine = on_device(weight, pattern, groups=groups)
    other = tmask.solve(weight, pattern, "augmenting-paths", groups=groups)
    tmask.check_mask(mine.mask, pattern, groups=groups)
    assert mine.mask.shape == weight.shape
    assert mine.status == "optimal"
    for field in ("objective", "dual_bound", "total"):
        assert getattr(mine, field) == pytest.approx(getattr(other, field), rel=1e-13), field
    assert mine.optimality_gap == 0
    assert mine.solver == "midpoint-torch"


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("pattern", ["1:4", "4:8"])
def test_hard_blocks_are_proven_too(kind, pattern):
    m = Pattern.parse(pattern).m
    weight = torch.from_numpy(make_blocks(kind, 30, m, seed=m).reshape(-1, m))
    mine, other = on_device(weight, pattern), tmask.solve(weight, pattern, "augmenting-paths")
    assert mine.status == "optimal"
    assert mine.objective == pytest.approx(other.objective, rel=1e-12)
    assert mine.dual_bound >= mine.objective
    if kind not in ("wide range", "one huge"):
        assert mine.optimality_gap == 0


def test_a_score_is_maximised_in_place_of_the_weight():
    weight, score = weight_of((8, 12)), weight_of((8, 12), torch.float64, 1) ** 2
    mine = on_device(weight, "2:4", score=score)
    assert mine.objective == pytest.approx(tmask.solve(weight, "2:4", score=score).objective, rel=1e-13)
    assert on_device(weight, "2:4", score=score.numpy()).objective == mine.objective


@pytest.mark.parametrize(
    ("weight", "score", "says"),
    [
        (torch.full((4, 4), torch.nan), None, "16 NaN or infinite values"),
        (torch.tensor([[1.0, torch.inf], [0, 0]]), None, r"first at index \(0, 1\)"),
        (torch.full((4, 4), 1e308, dtype=torch.float64), None, "overflows"),
        (torch.ones(4, 4), -torch.eye(4), "4 negative values"),
        (torch.ones(4, 4), torch.full((4, 4), torch.inf), "score: 16 NaN or infinite"),
        (torch.full((4, 4), torch.nan), torch.ones(4, 4), "weight: 16 NaN"),
        (torch.ones(4, 4), torch.ones(4, 5), r"score has shape \(4, 5\), but weight has shape \(4, 4\)"),
        (torch.ones(4, 4), np.ones((4, 4), int), "score has dtype int64"),
        (torch.ones(4, 4, dtype=torch.int8), None, "dtype int8"),
        (torch.eye(4).to_sparse(), None, "sparse_coo tensor"),
    ],
)
def test_what_cannot_be_used_is_named(weight, score, says):
    with pytest.raises(tmask.InvalidProblemError, match=says):
        on_device(weight, "2:4", score=score)


def test_masks_that_are_none_are_refused():
    with pytest.raises(tmask.SolverFailedError, match="returned what is no mask of 2 per row"):
        on_device(weight_of((8, 8)), "2:4", Fixed(mask=((True,) * 4,) * 4))
    with pytest.raises(tmask.SolverFailedError, match="4 blocks"):
        on_device(weight_of((8, 8)), "2:4", ClaimsToBeExact(mask=((False,) * 4,) * 4))


def test_an_underfilled_mask_is_called_so():
    solution = on_device(weight_of((8, 8)), "2:4", Fixed(mask=((True, False, False, False),) * 2 + ((False,) * 4,) * 2))
    assert solution.status is tmask.Status.UNDERFILLED
    assert solution.optimality_gap > 0


@pytest.mark.parametrize("prices", [(), (0.0,) * 4, (1e30, -1e30, 0.0, 0.5), (float("nan"),) * 4])
def test_wrong_or_no_prices_cost_time_alone(prices):
    weight = weight_of((8, 12))
    solution = on_device(weight, "2:4", Fixed(mask=BAND, prices=prices))
    expected = tmask.certify(weight, solution.mask, "2:4")
    assert solution.objective == pytest.approx(expected.objective, rel=1e-14)
    assert solution.dual_bound == pytest.approx(expected.dual_bound, rel=1e-14)
    assert solution.status == "feasible"


def test_prices_do_not_prove_an_underfilled_mask():
    """Each row keeps its largest, but one where it could keep two."""
    weight = torch.eye(4) + 0.5
    eye = tuple(tuple(i == j for j in range(4)) for i in range(4))
    solution = on_device(weight, "2:4", Fixed(mask=eye, prices=(0.0,) * 4))
    assert solution.dual_bound == pytest.approx(8.0)
    assert solution.objective == 6.0


@pytest.mark.parametrize("shape", [(8, 8), (3, 3)])
def test_solvers_see_finite_scores_alone(shape):
    seen = []

    @dataclass(frozen=True)
    class Looks(Fixed):
        def solve_tensor(self, scores, n):
            seen.append(bool(scores.isfinite().all() & (scores >= 0).all()))
            return TensorAnswer(torch.zeros(scores.shape, dtype=torch.bool))

    weight = weight_of(shape)
    weight[0, 0], weight[1, 1], weight[2, 2] = torch.nan, torch.inf, -torch.inf
    with pytest.raises(tmask.InvalidProblemError, match="3 NaN or infinite values"):
        on_device(weight, "2:4", Looks())
    assert seen == [True]


def test_a_slack_is_added_to_the_objective():
    solution = on_device(weight_of((8, 12)), "2:4", Fixed(mask=BAND, slack=0.25))
    assert solution.dual_bound == solution.objective + 0.25


def test_nothing_is_bounded_without_certify():
    solution = on_device(weight_of((8, 12)), "4:8", certify=False)
    assert solution.dual_bound is None
    assert solution.status == "feasible"


def test_progress_counts_every_block():
    seen = []
    on_device(weight_of((13, 18)), "2:4", progress=lambda *told: seen.append(told))
    count = Tiling((13, 18), Pattern(2, 4)).num_blocks
    assert seen == [(count, count, "")]


def test_a_weight_that_needs_a_gradient_is_left_alone():
    weight = torch.nn.Parameter(weight_of((8, 8)))
    assert not on_device(weight, "2:4").mask.requires_grad


def test_a_strided_view_is_read_as_it_is():
    weight = weight_of((40, 36)).t()[4:36, ::2]
    assert not weight.is_contiguous()
    assert on_device(weight, "4:8").objective == on_device(weight.contiguous(), "4:8").objective


def test_small_pieces_give_the_same_sums(monkeypatch):
    weight = torch.from_numpy(make_blocks("ties", 60, 8).reshape(2, 240, 8))[:, :, :, None].permute(1, 2, 3, 0)
    whole = on_device(weight, "4:8")
    monkeypatch.setattr("tmask.judging.examining.PIECE_ENTRIES", 3 * 64)
    parts = on_device(weight, "4:8")
    assert (parts.objective, parts.dual_bound, parts.total) == (whole.objective, whole.dual_bound, whole.total)


@pytest.mark.parametrize("kind", ["normal", "ties"])
def test_only_what_the_device_cannot_prove_goes_to_the_cpu(kind, monkeypatch):
    monkeypatch.setattr("tmask.solving.device_masks.judge_blocks", None)  # fails if it is called
    weight = torch.from_numpy(make_blocks(kind, 40, 8).reshape(-1, 8))
    assert on_device(weight, "4:8").optimality_gap == 0


def test_numbers_are_fetched_once(monkeypatch):
    """On ordinary weights; a solver may look at the device for itself."""
    fetched = []
    original = devices._fetch
    monkeypatch.setattr(devices, "_fetch", lambda *args: fetched.append(1) or original(*args))
    monkeypatch.setattr(DeviceMasks, "_excess_of_piece", None)
    assert on_device(weight_of((64, 61)), "4:8", certify=False).status == "feasible"
    assert fetched == [1]


@given(
    st.tuples(st.integers(1, 11), st.integers(1, 11), st.integers(1, 3)),
    st.sampled_from([(1, 2), (2, 4), (3, 5)]),
    st.sampled_from(["convolution", "stack"]),
)
@settings(deadline=None, max_examples=40)
def test_regions_are_cut_as_arrays_are(shape, pattern, layout):
    tiling = Tiling(shape, Pattern(*pattern), layout=layout)
    array = np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    matrices = to_matrices(tiling, torch.from_numpy(array))
    copy = torch.zeros(shape, dtype=torch.float64)
    for region, expected in zip(tiling.regions(), tiling.split(array), strict=True):
        if region.full:
            m = region.side
            blocks = cut_tiles(cut_region(region, matrices), m, m).reshape(-1, m, m)
            cut_region(region, to_matrices(tiling, copy)).copy_(cut_region(region, matrices))
        else:
            blocks = padded_blocks(region, matrices)
            join_padded(region, blocks, to_matrices(tiling, copy))
        np.testing.assert_array_equal(blocks.numpy(), expected)
    np.testing.assert_array_equal(copy.numpy(), array)


@given(st.tuples(*[st.integers(1, 6)] * 4), st.integers(0, 50))
def test_pieces_cover_everything_once_within_the_limit(grid, limit):
    seen = np.zeros(grid, int)
    for index in pieces(grid, limit):
        seen[index] += 1
        assert seen[index].size <= max(limit, 1)
    assert (seen == 1).all()


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([np.float32, np.float64]))
@settings(deadline=None, max_examples=60)
def test_proofs_agree_with_those_of_arrays(seed, optimal, dtype):
    rng = np.random.default_rng(seed)
    scores = make_blocks(rng.choice(["ties", "normal", "one ulp apart", "huge"]), 6, 4, seed).astype(dtype)
    answer = get_solver("augmenting-paths" if optimal else "random-best").solve(scores, 2)
    v = answer.prices if optimal else rng.choice([0, 1, 1 + 2.0**-52, 2.0**-60, np.inf], scores.shape[:2]) * 3
    s, masks, price = (torch.from_numpy(x) for x in (scores, answer.masks, v))
    expected = proves_optimal(scores, answer.masks, v)
    np.testing.assert_array_equal(tensor_judging.proves_optimal(s, masks, price).numpy(), expected)
    rounded = proves_optimal(scores, answer.masks, v.astype(dtype).astype(float))
    clear = tensor_judging.clearly_optimal(s, masks, price).numpy()
    assert (rounded | ~clear)[np.isfinite(v).all(1)].all()


def test_which_way_a_weight_takes():
    weight = weight_of((8, 8))
    assert not stays_on_device(weight, None, 4)
    assert not stays_on_device(weight.numpy(), None, 4)
    assert not stays_on_device(weight.to("meta"), None, 4)


def test_solve_hands_everything_on(monkeypatch):
    monkeypatch.setattr("tmask.solving.api.stays_on_device", lambda weight, solver, side: True)
    weight, score, seen = weight_of((12, 6, 3, 1)), weight_of((12, 6, 3, 1), seed=1).abs(), []
    options = {"score": score, "groups": 3, "certify": False, "progress": lambda *told: seen.append(told)}
    solution = tmask.solve(weight, "2:4", "greedy-keep", repair=True, **options)
    expected = on_device(weight, "2:4", get_solver("greedy-keep", repair=True), **options)
    assert torch.equal(solution.mask, expected.mask)
    assert solution.objective == expected.objective
    assert solution.dual_bound is None
    assert solution.solver == "greedy-keep"
    assert len(seen) == 2
    assert tmask.solve(weight, "2:4").solver == "midpoint-torch"


@pytest.mark.parametrize("device_type", ["cuda", "xpu"])
def test_accelerators_have_an_exact_solver_for_every_side(device_type):
    for side in (2, 4, 32, 64):
        found = device_solver(device_type, side)
        assert isinstance(found, TensorSolver)
        assert found.exact


def test_devices_without_float64_are_left_to_the_cpu():
    assert device_solver("mps", 4) is None


def test_a_solver_says_which_devices_it_takes():
    class OnCuda(Fixed):
        device_types: ClassVar[tuple[str, ...]] = ("cuda",)

    assert OnCuda.takes_device("cuda")
    assert not OnCuda.takes_device("xpu")
    assert Fixed.takes_device("xpu")


def test_prices_of_another_mask_prove_nothing():
    scores = torch.from_numpy(make_blocks("normal", 1, 4))
    band = torch.tensor(BAND).expand(1, 4, 4)
    prices = torch.from_numpy(get_solver("augmenting-paths").solve(scores.numpy(), 2).prices)
    part = DeviceMasks(
        Fixed(), 2, scores.view(1, 1, 1, 1, 4, 4), band.view(1, 1, 1, 1, 4, 4), TensorProof(None, prices)
    )
    known = Sums(*examine_all([part.part])[0].tolist(), slack=0.0)
    assert known.unproven == 1
    assert part.excess(known) > 0


@CUDA
@pytest.mark.parametrize("pattern", ["2:4", "4:8", "8:16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_a_weight_on_cuda_stays_there(pattern, dtype):
    weight = weight_of((160, 136), getattr(torch, dtype))
    mine, other = tmask.solve(weight.cuda(), pattern), tmask.solve(weight, pattern)
    assert mine.mask.is_cuda
    assert mine.status == "optimal"
    assert mine.objective == pytest.approx(other.objective, rel=1e-12)
    tmask.check_mask(mine.mask, pattern)


@CUDA
def test_subnormal_scores_count_on_cuda():
    scores = torch.from_numpy(make_blocks("subnormal", 50, 8).reshape(-1, 8))
    assert tmask.solve(scores.cuda(), "4:8", "midpoint-torch").objective == tmask.solve(scores, "4:8").objective


@CUDA
@pytest.mark.parametrize("name", ["greedy-keep", "entropic", "midpoint-torch"])
def test_every_tensor_solver_runs_on_cuda(name):
    weight = weight_of((64, 61))
    mine, other = tmask.solve(weight.cuda(), "4:8", name), tmask.solve(weight, "4:8", name)
    assert mine.mask.is_cuda
    assert mine.objective == pytest.approx(other.objective, rel=1e-3)

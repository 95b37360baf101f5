"""The CUDA kernels against the integer solver, on a simulated warp and, where there is one, on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

import tmask
from tests.grid import assert_same_objectives
from tests.solvers.cuda_machines import Machine, simulate, why_no_gpu
from tests.strategies import KINDS, blocks, make_blocks
from tmask.judging.certificate import judge
from tmask.solving.entry import DRIVER
from tmask.solving.registry import get_solver, solver_infos
from tmask_solvers.midpoint_cuda import MidpointCuda

# On a simulated warp a shuffle takes a millisecond, and paths take many: these kinds leave much to them.
TIED = ("ties", "half zeros", "huge", "one ulp apart", "subnormal")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@pytest.fixture(params=["simulated", "gpu"])
def machine(request, monkeypatch) -> Machine:
    if request.param == "simulated":
        simulate(monkeypatch)
        return Machine("cpu")
    if reason := why_no_gpu():
        pytest.skip(reason)
    return Machine("cuda")


def reference(scores: np.ndarray, n: int) -> np.ndarray:
    return get_solver("augmenting-paths").solve(scores, n).masks


def assert_optimal(scores: torch.Tensor, masks: torch.Tensor, n: int) -> None:
    """Exactly n in each line of (B, m, m), and the optimum to the unit of the grid."""
    exact = scores.cpu().double().numpy() if scores.dtype == torch.float64 else scores.cpu().float().numpy()
    kept = masks.cpu().numpy()
    assert (kept.sum(1) == n).all()
    assert (kept.sum(2) == n).all()
    assert_same_objectives(exact, kept, reference(exact, n), n)


def as_matrix(tiles: torch.Tensor, down: int) -> torch.Tensor:
    """Blocks (B, m, m) as a matrix (1, 1, down * m, B / down * m)."""
    m = tiles.shape[1]
    grid = tiles.reshape(down, -1, m, m).transpose(1, 2)
    return grid.reshape(1, 1, down * m, -1)


def as_blocks(matrix: torch.Tensor, m: int) -> torch.Tensor:
    rows, cols = matrix.shape[2:]
    return matrix.reshape(-1, rows // m, m, cols // m, m).transpose(2, 3).reshape(-1, m, m)


@pytest.mark.parametrize(("n", "m", "count"), [(1, 4, 9), (2, 4, 9), (4, 8, 3), (2, 8, 3), (3, 5, 3), (5, 6, 3)])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_blocks_of_every_kind_are_optimal(machine, kind, n, m, count):
    scores = torch.from_numpy(make_blocks(kind, 1 if kind in TIED and m > 4 else count, m, seed=n)).to(machine.device)
    answer = machine.solver().solve_tensor(scores, n)
    assert_optimal(scores, answer.masks, n)


@pytest.mark.parametrize(("n", "m"), [(4, 16), (8, 16), (16, 32), (20, 32), (7, 12), (9, 17)])
@pytest.mark.parametrize("kind", ["normal", "bf16", "constant", "wide range"])
def test_larger_blocks_are_optimal(machine, kind, n, m):
    scores = torch.from_numpy(make_blocks(kind, 3 if m < 17 else 1, m, seed=1)).to(machine.device)
    answer = machine.solver().solve_tensor(scores, n)
    assert_optimal(scores, answer.masks, n)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m"), [(2, 4), (3, 4), (4, 8)])
def test_matrices_of_every_dtype_are_optimal(machine, dtype, n, m):
    draw = torch.Generator().manual_seed(5)
    tiles = torch.randn((10, m, m), generator=draw).to(DTYPES[dtype]).to(machine.device)
    weights = as_matrix(tiles, 2)
    masks = torch.zeros(weights.shape, dtype=torch.bool, device=machine.device)
    machine.solver().solve_matrices(weights, n, m, masks)
    assert_optimal(tiles.abs(), as_blocks(masks, m), n)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8)])
@pytest.mark.parametrize(
    "layout", ["transposed", "columns apart", "after three entries", "kernel positions and groups"]
)
def test_weights_and_masks_may_lie_anywhere(machine, layout, n, m):
    draw = torch.Generator().manual_seed(6)
    wide = torch.randn((2, 3, 4 * m + 3, 8 * m + 3), generator=draw).to(machine.device)
    kept = torch.zeros(wide.shape, dtype=torch.bool, device=machine.device)

    def view(x: torch.Tensor) -> torch.Tensor:
        if layout == "transposed":
            return x[:1, :1, : 2 * m, : 3 * m].transpose(2, 3)
        if layout == "columns apart":
            return x[:1, :1, : 2 * m, : 6 * m : 2]
        if layout == "after three entries":
            return x[:1, :1, 3 : 3 + 2 * m, 3 : 3 + 3 * m]
        return x[:, :, :m, : 2 * m]

    weights, masks = view(wide), view(kept)
    machine.solver().solve_matrices(weights, n, m, masks)
    flat = weights.reshape(1, 1, -1, weights.shape[3])
    assert_optimal(as_blocks(flat, m).abs(), as_blocks(masks.reshape(flat.shape), m), n)
    assert int(kept.sum()) == n * weights.numel() // m, "a byte beside the mask was touched"


def test_masks_are_the_same_where_the_optimum_is_unique(machine):
    scores = make_blocks("normal", 40, 8, seed=8)
    answer = machine.solver().solve_tensor(torch.from_numpy(scores).to(machine.device), 3)
    np.testing.assert_array_equal(answer.masks.cpu().numpy(), reference(scores, 3))


@pytest.mark.parametrize("kind", ["normal", "ties", "constant", "half zeros"])
def test_prices_prove_the_masks(machine, kind):
    scores = make_blocks(kind, 3, 6, seed=9)
    answer = machine.solver().solve_tensor(torch.from_numpy(scores).to(machine.device), 2)
    u, v = answer.row_prices.cpu().numpy(), answer.col_prices.cpu().numpy()
    judgement = judge(scores, answer.masks.cpu().numpy(), 2, prices=v)
    np.testing.assert_array_equal(judgement.bound, judgement.objective)
    # u and v are feasible duals, whose bound is the optimum but for the rounding of midpoints.
    bound = 2 * (u.sum(1) + v.sum(1)) + np.maximum(scores - u[:, :, None] - v[:, None], 0).sum((1, 2))
    np.testing.assert_allclose(bound, judgement.objective, rtol=1e-6)


def test_matrices_come_with_prices_or_with_a_slack(machine):
    weights = as_matrix(torch.from_numpy(make_blocks("normal", 4, 8)), 2).to(machine.device)
    masks = torch.zeros(weights.shape, dtype=torch.bool, device=machine.device)
    proof = machine.solver().solve_matrices(weights, 4, 8, masks)
    judgement = judge(
        as_blocks(weights, 8).cpu().numpy(), as_blocks(masks, 8).cpu().numpy(), 4, prices=proof.col_prices.cpu().numpy()
    )
    np.testing.assert_array_equal(judgement.bound, judgement.objective)
    again = torch.zeros_like(masks)
    bare = machine.solver(prices=False).solve_matrices(weights, 4, 8, again)
    assert bare.col_prices is None
    assert float(bare.slack) == 0
    assert (again == masks).all()


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8)])
def test_scores_off_the_grid_are_paid_for(machine, n, m):
    scores = make_blocks("ties", 2, m, seed=3)
    scores[0] *= np.float32(2.0**-60)
    scores[0, 0, 0] = 1.5  # 2^-60 is no multiple of 2^-46
    weights = as_matrix(torch.from_numpy(scores).to(machine.device), 1)
    masks = torch.zeros(weights.shape, dtype=torch.bool, device=machine.device)
    proof = machine.solver(prices=False).solve_matrices(weights, n, m, masks)
    assert float(proof.slack) == n * m * 2.0**-45
    assert_optimal(torch.from_numpy(scores), as_blocks(masks, m), n)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_closed_forms_are_optimal_for_every_kind(machine, kind, n):
    scores = torch.from_numpy(make_blocks(kind, 8, 4, seed=n)).to(machine.device)
    weights = as_matrix(scores, 2)
    masks = torch.zeros(weights.shape, dtype=torch.bool, device=machine.device)
    machine.solver().solve_matrices(weights, n, 4, masks)
    assert_optimal(scores, as_blocks(masks, 4), n)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_closed_forms_leave_to_others_what_float32_cannot_tell(machine, n):
    # 2^-24 is lost where it is added to 1, and there alone do these masks differ.
    close = np.ones((3, 4, 4), np.float32)
    close[0] += np.float32(2.0**-23) * np.eye(4, dtype=np.float32)
    close[1] = np.eye(4) + np.float32(2.0**-24) * np.fliplr(np.eye(4))
    close[2, 1:3, 1:3] = [[2.0**-24, 2.0**-25], [2.0**-26, 2.0**-24]]
    weights = as_matrix(torch.from_numpy(close).to(machine.device), 1)
    masks = torch.zeros(weights.shape, dtype=torch.bool, device=machine.device)
    proof = machine.solver().solve_matrices(weights, n, 4, masks)
    assert float(proof.slack) == 0
    assert_optimal(torch.from_numpy(close), as_blocks(masks, 4), n)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (3, 6)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_does_no_harm_to_others(machine, bad, n, m):
    scores = make_blocks("normal", 3, m)
    spoilt = scores.copy()
    spoilt[1, 1, 1] = bad
    weights = as_matrix(torch.from_numpy(spoilt).to(machine.device), 1)
    masks = torch.zeros(weights.shape, dtype=torch.bool, device=machine.device)
    machine.solver().solve_matrices(weights, n, m, masks)
    kept = as_blocks(masks, m)
    assert (kept.sum(1) == n).all()
    assert (kept.sum(2) == n).all()
    assert_optimal(torch.from_numpy(scores[[0, 2]]), kept[[0, 2]], n)


def test_no_blocks_are_no_work(machine):
    weights = torch.zeros((1, 2, 0, 8), device=machine.device)
    proof = machine.solver().solve_matrices(
        weights, 4, 8, torch.zeros(weights.shape, dtype=torch.bool, device=machine.device)
    )
    assert float(proof.slack) == 0


def test_nothing_is_filled_for_matrices_that_have_entries(monkeypatch):
    """Each fill is one more kernel to start, of which a small solve has two."""
    simulate(monkeypatch)
    monkeypatch.setattr(torch.Tensor, "new_zeros", None)
    weights = torch.ones((1, 1, 8, 8))
    proof = MidpointCuda().solve_matrices(weights, 2, 4, torch.zeros(weights.shape, dtype=torch.bool))
    assert float(proof.slack) == 0


def test_more_blocks_than_an_index_holds_are_refused(machine):
    vast = torch.zeros((1, 1, 4, 4), device=machine.device).expand(2**20, 2**11, 4, 4)
    masks = torch.zeros((1, 1, 4, 4), dtype=torch.bool, device=machine.device).expand(vast.shape)
    with pytest.raises(tmask.InvalidProblemError, match="2147483648 blocks are too many"):
        machine.solver().solve_matrices(vast, 2, 4, masks)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (3, 6), (8, 16), (16, 32)])
def test_ordinary_blocks_are_not_left_to_the_paths(monkeypatch, n, m):
    cuda = simulate(monkeypatch)

    def add(array, index, value):
        raise AssertionError("a tile is left over")

    monkeypatch.setattr(cuda.atomic, "add", add)
    scores = torch.from_numpy(make_blocks("normal", 4 if m < 16 else 1, m, seed=4))
    assert_optimal(scores, MidpointCuda().solve_tensor(scores, n).masks, n)
    weights = as_matrix(scores, 1)
    masks = torch.zeros(weights.shape, dtype=torch.bool)
    MidpointCuda().solve_matrices(weights, n, m, masks)
    assert_optimal(scores, as_blocks(masks, m), n)


@given(problem=blocks(max_count=2))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_block_is_solved_to_the_optimum(problem):
    scores, n = problem
    if n == scores.shape[1]:
        return
    with pytest.MonkeyPatch.context() as monkeypatch:
        simulate(monkeypatch, seed=int(scores.sum()) % 1000)
        tensor = torch.from_numpy(scores)
        assert_optimal(tensor, MidpointCuda().solve_tensor(tensor, n).masks, n)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(tmask.SolverUnavailableError, match=r"needs an NVIDIA GPU that PyTorch can use.*'midpoint'"):
        MidpointCuda()


def test_without_a_driver_it_is_listed_as_missing(monkeypatch):
    monkeypatch.setattr(tmask.solving.entry, "_has_driver", lambda: False)
    info = next(info for info in solver_infos() if info.name == "midpoint-cuda")
    assert DRIVER in info.missing
    with pytest.raises(tmask.SolverUnavailableError, match=r'an NVIDIA driver.*"tmask\[cuda\]", on a machine with'):
        get_solver("midpoint-cuda")


@pytest.mark.skipif(bool(why_no_gpu()), reason=why_no_gpu() or "none")
class TestOnAGpu:
    """What a simulation cannot show."""

    @pytest.mark.parametrize("pattern", ["1:4", "2:4", "3:4", "2:8", "4:8", "4:16", "8:16", "8:32", "16:32"])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_large_weights_are_proven_optimal_as_on_a_cpu(self, pattern, dtype):
        weight = torch.randn((1030, 2050), generator=torch.Generator().manual_seed(11)).to(DTYPES[dtype])
        solution = tmask.solve(weight.cuda(), pattern, solver="midpoint-cuda")
        on_cpu = tmask.solve(weight, pattern)
        assert solution.mask.is_cuda
        assert abs(solution.objective - on_cpu.objective) <= 1e-12 * on_cpu.objective
        assert solution.dual_bound - solution.objective <= 1e-12 * on_cpu.objective

    def test_it_works_on_the_current_stream(self):
        weight = torch.randn((2048, 2048), device="cuda")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            twice = weight * 2
            solution = tmask.solve(twice, "4:8", solver="midpoint-cuda")
        expected = tmask.solve(weight, "4:8", solver="midpoint-cuda")
        assert (solution.mask == expected.mask).all()

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
    def test_it_works_on_another_gpu_than_the_current_one(self):
        weight = torch.randn((256, 256))
        masks = [tmask.solve(weight.to(f"cuda:{k}"), "4:8", solver="midpoint-cuda").mask.cpu() for k in (1, 0)]
        assert (masks[0] == masks[1]).all()

"""The checks of masks by the CUDA kernel, on a simulated warp and on a GPU: the figures of torch's operations."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import tmask
from tests.solvers.cuda_machines import Machine, simulate, why_no_gpu
from tests.solvers.test_midpoint_cuda import DTYPES, as_matrix
from tests.strategies import KINDS, make_blocks
from tmask.blocks.pattern import Pattern
from tmask.blocks.tensor_blocks import cut_tiles
from tmask.judging import duals
from tmask.judging.examining import Judged, _by_torch, examine_all
from tmask.solving import devices
from tmask.solving.device_masks import DeviceMasks
from tmask.solving.devices import solve_many_on_device, solve_on_device
from tmask.solving.region_answer import make_solution
from tmask.solving.registry import get_solver
from tmask.solving.request import Request
from tmask_solvers.cuda_kernels import judging
from tmask_solvers.midpoint_cuda import MidpointCuda


@pytest.fixture(params=["simulated", "gpu"])
def machine(request, monkeypatch) -> Machine:
    if request.param == "simulated":
        simulate(monkeypatch)
        return Machine("cpu")
    if reason := why_no_gpu():
        pytest.skip(reason)
    return Machine("cuda")


def solve(weight, pattern, **options):
    request = Request(weight, Pattern.parse(pattern), MidpointCuda(), **options)
    mask, answers = solve_on_device(request)
    return make_solution(mask, request.pattern, answers)


def part_of(scores: np.ndarray, masks: np.ndarray, n: int, prices: np.ndarray | None, device: str) -> Judged:
    tiles, kept = torch.from_numpy(scores).to(device), torch.from_numpy(masks).to(device)
    v = None if prices is None else torch.from_numpy(prices).to(device)[None, None, None]
    return Judged(tiles[None, None, None], kept[None, None, None], n, v)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (3, 5), (4, 8), (9, 17)])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_figures_are_those_of_the_cpu(machine, kind, n, m):
    scores = make_blocks(kind, 3 if m < 9 else 1, m, seed=m)
    answer = get_solver("augmenting-paths").solve(scores, n)
    found = judging.examine_all([part_of(scores, answer.masks, n, answer.prices, machine.device)])[0].tolist()
    proven = duals.proves_optimal(scores, answer.masks, answer.prices)
    wide = scores.astype(np.float64)
    np.testing.assert_allclose(found[:2], [wide[answer.masks].sum(), wide.sum()], rtol=1e-15)
    assert found[2:] == [0, 0, int((~proven).sum())]


def test_a_warp_goes_on_to_further_tiles(machine):
    scores = make_blocks("normal", 30, 5, seed=1)
    answer = get_solver("augmenting-paths").solve(scores, 2)
    found = judging.examine_all([part_of(scores, answer.masks, 2, answer.prices, machine.device)])[0].tolist()
    np.testing.assert_allclose(found[0], scores[answer.masks].sum(dtype=np.float64), rtol=1e-15)
    assert found[2:] == [0, 0, 0]


@pytest.mark.parametrize("priced", [False, True])
def test_wrong_masks_are_counted(machine, priced):
    rng = np.random.default_rng(0)
    scores, masks = make_blocks("normal", 7, 6), rng.random((7, 6, 6)) < 0.5
    masks[2] = [[(j - i) % 6 < 3 for j in range(6)] for i in range(6)]
    part = part_of(scores, masks, 3, rng.normal(size=(7, 6)) if priced else None, machine.device)
    found = judging.examine_all([part])[0].tolist()
    np.testing.assert_allclose(found, _by_torch(part).tolist(), rtol=1e-15)
    assert found[3] == 6
    assert found[4] == (7 if priced else 0)


def test_what_rounding_ties_is_compared_exactly(machine):
    """Less 2^40, 1 and 1 + 2^-23 are one number in float64; only the mask that keeps the larger one is proven."""
    larger = np.float32(1 + 2.0**-23)
    scores = np.array([[[larger, 1], [1, 1]], [[1, larger], [1, 1]], [[1, 1], [1, 1]]], np.float32)
    masks = np.array([np.eye(2, dtype=bool)] * 3)
    v = np.full((3, 2), 2.0**40)
    found = judging.examine_all([part_of(scores, masks, 1, v, machine.device)])[0].tolist()
    assert duals.proves_optimal(scores, masks, v).tolist() == [True, False, True]
    assert found[2:] == [0, 0, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_prices_that_are_not_finite_prove_nothing(machine, bad):
    """Where differences tell masks apart at once, and where they tie."""
    for scores in (np.eye(5, dtype=np.float32) + np.zeros((3, 1, 1), np.float32), np.ones((3, 5, 5), np.float32)):
        prices = np.zeros((3, 5))
        prices[1, 4] = bad
        masks = np.array([np.eye(5, dtype=bool)] * 3)
        found = judging.examine_all([part_of(scores, masks, 1, prices, machine.device)])[0].tolist()
        assert found[2:] == [0, 0, 1]


def test_parts_of_all_kinds_keep_their_places(machine):
    parts = []
    for k, (n, m, priced) in enumerate([(2, 4, False), (3, 6, True), (2, 4, True), (2, 4, False), (3, 6, True)]):
        scores = make_blocks("normal", 2 + k, m, seed=k)
        answer = get_solver("augmenting-paths").solve(scores, n)
        parts.append(part_of(scores, answer.masks, n, answer.prices if priced else None, machine.device))
    found = judging.examine_all(parts)
    by_torch = torch.stack([_by_torch(part) for part in parts])
    np.testing.assert_allclose(found[:, :4].cpu(), by_torch[:, :4].cpu(), rtol=1e-15)
    assert not found[:, 4].any(), "what torch does not prove at first sight is looked at again"


def test_what_the_kernel_does_not_take_torch_examines(machine, monkeypatch):
    parts = []
    for n, m in ((2, 4), (3, 6), (2, 4)):
        scores = make_blocks("normal", 2, m, seed=m)
        parts.append(part_of(scores, get_solver("augmenting-paths").solve(scores, n).masks, n, None, machine.device))
    expected = examine_all(parts)
    monkeypatch.setattr(judging, "takes", lambda device_type, side: side == 4)
    np.testing.assert_allclose(examine_all(parts).cpu(), expected.cpu(), rtol=1e-15)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("pattern", "ragged"), [("2:4", 1), ("3:5", 0)])
def test_a_solve_has_the_figures_of_the_cpu(machine, dtype, pattern, ragged):
    """Regions that are whole and cut short, transposed."""
    m = Pattern.parse(pattern).m
    weight = torch.randn((2 * m + ragged, m), generator=torch.Generator().manual_seed(1)).to(DTYPES[dtype]).t()
    mine, other = solve(weight.to(machine.device), pattern), tmask.solve(weight.contiguous(), pattern)
    for field in ("objective", "dual_bound", "total"):
        assert getattr(mine, field) == pytest.approx(getattr(other, field), rel=1e-14), field
    assert mine.optimality_gap == 0
    assert torch.equal(mine.mask.cpu(), torch.as_tensor(other.mask))


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("pattern", ["2:4", "3:6"])
def test_hostile_blocks_are_proven_as_on_the_cpu(machine, kind, pattern):
    m = Pattern.parse(pattern).m
    weight = torch.from_numpy(make_blocks(kind, 2, m, seed=m).reshape(-1, m))
    mine, other = solve(weight.to(machine.device), pattern), tmask.solve(weight, pattern)
    assert mine.status == "optimal"
    assert mine.objective == pytest.approx(other.objective, rel=1e-12)
    assert mine.dual_bound >= mine.objective
    if kind not in ("wide range", "one huge"):
        assert mine.optimality_gap == 0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("pattern", ["2:4", "3:6"])
def test_what_is_not_finite_is_refused_by_name(machine, bad, pattern):
    weight = torch.randn(12, 12, generator=torch.Generator().manual_seed(0)).to(machine.device)
    weight[7, 3] = bad
    with pytest.raises(tmask.InvalidProblemError, match=r"NaN or infinite.*\(7, 3\)"):
        solve(weight, pattern)


def test_numbers_are_fetched_once_and_ties_need_no_second_look(machine, monkeypatch):
    fetched = []
    original = devices._fetch
    monkeypatch.setattr(devices, "_fetch", lambda *args: fetched.append(1) or original(*args))
    monkeypatch.setattr(DeviceMasks, "_excess_of_piece", None)
    weight = torch.from_numpy(make_blocks("ties", 4, 8).reshape(-1, 8)).to(machine.device)
    assert solve(weight, "4:8").optimality_gap == 0
    assert fetched == [1]


def test_torch_looks_at_no_entry(machine, monkeypatch):
    """A call starts two kernels for the masks, one that judges, and what brings its sums together."""
    for name in ("examine", "magnitudes", "count_lines"):
        monkeypatch.setattr(f"tmask.judging.tensor_judging.{name}", None)
    monkeypatch.setattr("tmask.judging.examining.examine", None)
    weight = torch.randn((16, 24), generator=torch.Generator().manual_seed(0)).to(machine.device)
    launched = []
    original = judging.Kernel.build
    monkeypatch.setattr(
        judging.Kernel, "build", lambda kernel, cuda: launched.append(kernel.kind) or original(kernel, cuda)
    )
    for pattern, kinds in (("2:4", ["closed", "paths", "tally"]), ("4:8", ["rounds", "paths", "judge"])):
        launched.clear()
        assert solve(weight, pattern).optimality_gap == 0
        if machine.device == "cpu":
            assert launched == kinds


MODEL = [(8, 16), (4, 4), (12, 8), (16, 12, 3, 3), (9, 10)]


def requests_of(machine, shapes=MODEL, solver=None, dtypes=(torch.float32,)):
    draw = torch.Generator().manual_seed(3)
    weights = [torch.randn(s, generator=draw).to(dtypes[k % len(dtypes)]) for k, s in enumerate(shapes)]
    return [Request(w.to(machine.device), Pattern(2, 4), solver or MidpointCuda()) for w in weights]


@pytest.mark.parametrize("dtypes", [(torch.float32,), (torch.bfloat16, torch.float32)])
def test_many_weights_of_any_shapes_are_solved_and_judged_together(machine, monkeypatch, dtypes):
    fetched = []
    original = devices._fetch
    monkeypatch.setattr(devices, "_fetch", lambda *args: fetched.append(1) or original(*args))
    requests = requests_of(machine, dtypes=dtypes)
    together = solve_many_on_device(requests)
    assert fetched == [1]
    for request, (mask, answers) in zip(requests, together, strict=True):
        alone, one_by_one = solve_on_device(request)
        assert torch.equal(mask, alone)
        for answer, expected in zip(answers, one_by_one, strict=True):
            assert dataclasses.astuple(answer.worth) == pytest.approx(dataclasses.astuple(expected.worth), rel=1e-15)


@pytest.mark.parametrize("pattern", [(2, 4), (3, 6)])
def test_one_launch_serves_matrices_that_lie_anywhere(machine, pattern):
    n, m = pattern
    memory = torch.randn((9 * m, 9 * m), generator=torch.Generator().manual_seed(4)).to(machine.device)
    kept = torch.zeros(memory.shape, dtype=torch.bool, device=machine.device)
    views = [
        (slice(5 * m, 7 * m), slice(3, 3 + 3 * m)),
        (slice(0, m), slice(0, m)),
        (slice(8 * m, 9 * m), slice(0, 2 * m)),
    ]
    pairs = [(memory[v].t()[None, None], kept[v].t()[None, None]) for v in views]
    proofs = MidpointCuda().solve_many(pairs, n, m)
    assert len(proofs) == 3
    assert int(kept.sum()) == sum(n * w.numel() // m for w, _ in pairs), "a byte beside the masks was touched"
    for weights, mask in pairs:
        alone = torch.zeros(weights.shape, dtype=torch.bool, device=machine.device)
        MidpointCuda().solve_matrices(weights, n, m, alone)
        assert torch.equal(mask, alone)


def test_a_default_device_of_torch_makes_no_difference(machine):
    """A model that is made under `torch.set_default_device` is renewed under it, too."""
    requests = requests_of(machine, shapes=[(8, 16), (9, 10)])
    expected = solve_many_on_device(requests)
    with torch.device("meta"):  # as for any other than the CPU, tables must not be made there
        found = solve_many_on_device(requests)
    assert all(torch.equal(mask, other) for (mask, _), (other, _) in zip(found, expected, strict=True))


def test_an_error_tells_of_which_weight_it_is(machine):
    requests = requests_of(machine)
    requests[2].weight[3, 3] = torch.nan
    with pytest.raises(tmask.InvalidProblemError, match=r"NaN or infinite.*\(3, 3\)") as caught:
        solve_many_on_device(requests)
    assert caught.value.request == 2
    requests[1] = dataclasses.replace(requests[1], score=torch.ones(3, 3, device=machine.device))
    with pytest.raises(tmask.InvalidProblemError, match="score has shape") as caught:
        solve_many_on_device(requests)
    assert caught.value.request == 1


def test_slacks_belong_to_the_matrix_whose_scores_were_rounded(machine):
    plain, off = make_blocks("ties", 1, 4, seed=3), make_blocks("ties", 1, 4, seed=3)
    off[0] *= np.float32(2.0**-60)
    off[0, 0, 0] = 1.5
    pairs = [(as_matrix(torch.from_numpy(x).to(machine.device), 1), None) for x in (plain, off, plain)]
    pairs = [(w, torch.zeros(w.shape, dtype=torch.bool, device=machine.device)) for w, _ in pairs]
    proofs = MidpointCuda(prices=False).solve_many(pairs, 2, 4)
    assert [float(proof.slack) for proof in proofs] == [0, 8 * 2.0**-45, 0]
    assert cut_tiles(pairs[1][1], 4, 4).sum() == 8

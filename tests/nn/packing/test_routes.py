"""Routes: who takes what, whether their products are believed, and whether they pay."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.nn.linears import masked_linear
from tests.nn.two_four import random_mask
from tests.nn.unpacked_route import Unpacked
from tmask.errors import InvalidProblemError, KernelError
from tmask.nn.packing import attaching, payoff, routes, support, trials, verification
from tmask.nn.packing.layout import bits, pack
from tmask.nn.packing.routes.cutlass import tile_bits
from tmask.nn.packing.timing import Timing

CUDA = torch.device("cuda", 0)


def test_supported_gives_the_reason(unpacked):
    def why(shape=(64, 64), dtype=torch.bfloat16, device="cpu", pattern="2:4"):
        return support.supported(shape, dtype, device, pattern)

    assert why() == (True, "")
    assert why(pattern="4:8") == (False, "sparse tensor cores multiply 2:4 alone, not 4:8")
    for expected, arguments in (
        ("both sides in multiples of 32", {"shape": (64, 40)}),
        ("both sides in multiples of 32", {"shape": (0, 64)}),
        ("4 axes", {"shape": (64, 64, 3, 3)}),
        ("dtype float32", {"dtype": torch.float32}),
        ("no sparse kernel runs on a meta device", {"device": "meta"}),
    ):
        fits, reason = why(**arguments)
        assert not fits
        assert expected in reason


@pytest.mark.parametrize(("name", "multiple"), [("cutlass", 64), ("cusparselt", 16)])
def test_shapes_that_fit_the_real_routes(name, multiple):
    real = routes.ROUTES[name]
    for rows, cols in itertools.product((16, 32, 64, 96, 128, 4096), repeat=2):
        fits = rows % multiple == 0 and cols % multiple == 0
        assert (support.misfit(real, (rows, cols), torch.float16) == "") == fits


@pytest.mark.parametrize(
    ("capability", "name"), [((8, 0), "cutlass"), ((8, 9), "cutlass"), ((9, 0), "cusparselt"), ((12, 0), "cusparselt")]
)
def test_the_route_follows_the_compute_capability(monkeypatch, capability, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.backends.cusparselt, "is_available", lambda: True)
    found, problem = routes.find_route(torch.device("cuda"))
    assert found is not None
    assert (found.name, problem) == (name, "")


def test_no_route_for_old_devices_or_without_the_library(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    found, problem = routes.find_route(torch.device("cuda"))
    assert found is None
    assert "need compute capability 8.x; this device has 7.5" in problem
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    assert "from compute capability 9.0 on; this device has 8.6" in routes.ROUTES["cusparselt"].problem(CUDA)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.backends.cusparselt, "is_available", lambda: False)
    assert "without cuSPARSELt" in routes.find_route(torch.device("cuda"))[1]


def test_verification_passes_once_and_is_remembered(route):
    kind, device = route
    verification.verify(kind, (64, 128), torch.bfloat16, device)
    products = kind.products if kind.name == "unpacked" else None
    verification.verify(kind, (64, 128), torch.bfloat16, device)
    assert products is None or kind.products == products
    verification.verify(kind, (128, 192), torch.float16, device)


def test_values_in_the_wrong_place_are_found(unpacked):
    unpacked.shift = 1
    with pytest.raises(KernelError, match=r"packed W puts wrong values in \d+ places, first at row \d+, column 0"):
        attaching.attach(masked_linear())
    unpacked.shift = 0
    verification.verify(unpacked, (64, 128), torch.bfloat16, torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wrong", ["a column too few", "no bias", "NaN"])
def test_wrong_sums_are_found(unpacked, monkeypatch, dtype, wrong):
    right = Unpacked.product

    def product(self, tokens, operand, rows, bias):
        if wrong == "no bias":
            return right(self, tokens, operand, rows, None)
        result = right(self, tokens, operand, rows, bias)
        if len(tokens) == 256:  # right with tokens of one nonzero each
            result[200, 3] = float("nan") if wrong == "NaN" else result[200, 3] + 1
        return result

    monkeypatch.setattr(Unpacked, "product", product)
    with pytest.raises(KernelError, match=r"is off by .* of its size"):
        verification.verify(unpacked, (64, 128), dtype, torch.device("cpu"))


def test_a_kernel_that_raises_is_named(unpacked, monkeypatch):
    def fail(self, weight, plan):
        raise RuntimeError("CUDA error: architecture mismatch when calling cusparseLtInit")

    monkeypatch.setattr(Unpacked, "pack", fail)
    with pytest.raises(KernelError, match="unpacked fails on cpu: CUDA error: architecture mismatch"):
        attaching.attach(masked_linear())


def test_trial_masks_are_complete():
    mask = trials.random_mask(64, 96, torch.device("cpu"))
    assert mask.view(64, -1, 4).sum(-1).eq(2).all()
    assert mask.t().reshape(96, -1, 4).sum(-1).eq(2).all()


def test_trials_do_not_follow_torchs_default_device():
    """As `torch.set_default_device("cuda")` sets it: their generators are the CPU's."""
    here = trials.random_mask(64, 96, torch.device("cpu"))
    with torch.device("meta"):
        assert torch.equal(trials.random_mask(64, 96, torch.device("cpu")), here)


def test_pays_measures_once_and_says_what(route):
    kind, device = route
    answer, why = payoff.pays((64, 128), torch.bfloat16, device, tokens=32)
    assert isinstance(answer, bool)
    assert "ms packed" in why
    assert "measured with 32 tokens" in why
    products = kind.products if kind.name == "unpacked" else None
    assert payoff.pays((64, 128), torch.bfloat16, device, tokens=32) == (answer, why)
    assert products is None or kind.products == products


@pytest.mark.parametrize(("sparse_forward", "faster", "total"), [(1, True, "5"), (2.2, True, "6.2"), (3, False, "7")])
def test_pays_compares_a_whole_step_with_the_masked_one(unpacked, monkeypatch, sparse_forward, faster, total):
    monkeypatch.setattr(payoff, "measure_linear", lambda *_: timing_of(1e-3 * sparse_forward))
    answer, why = payoff.pays((64, 64), torch.bfloat16, "cpu")
    assert answer == faster
    assert f"{total} ms packed (2 of them packing) against 6.5 ms masked, measured with 8192 tokens" in why


def timing_of(sparse_forward):
    return Timing(
        tokens=8192, dense_forward=2e-3, dense_backward=4e-3, sparse_forward=sparse_forward, sparse_backward=2e-3,
        mask=5e-4, pack=2e-3,
    )  # fmt: skip


def test_a_wrong_kernel_does_not_pay_and_warns(unpacked):
    unpacked.shift = 1
    with pytest.warns(RuntimeWarning, match="masked products instead of packed ones: unpacked with a 64x64 weight"):
        answer, why = payoff.pays((64, 64), torch.bfloat16, "cpu")
    assert not answer
    assert "puts wrong values" in why


def test_pays_refuses_what_is_not_supported(unpacked):
    with pytest.raises(InvalidProblemError, match="no packed product: dtype float32"):
        payoff.pays((64, 64), torch.float32, "cpu")


def test_the_bitmask_of_tiles_entry_by_entry():
    mask = random_mask(32, 64, 3)
    expected = torch.zeros(4, 8, 8, dtype=torch.uint8)
    for row, col in mask.nonzero().tolist():
        quarter = 2 * (row % 8 // 4) + col % 8 // 4
        bit = 4 * (row % 4) + col % 4
        expected[row // 8, col // 8, 2 * quarter + bit // 8] |= 1 << bit % 8
    assert torch.equal(tile_bits(mask), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cutlass_packs_as_the_reference_does():
    cutlass = routes.ROUTES["cutlass"]
    if problem := cutlass.problem(CUDA):
        pytest.skip(problem)
    mask, weight = random_mask(128, 192).to(CUDA), torch.randn(128, 192, device=CUDA).bfloat16()
    (values, meta), (values_t, meta_t) = cutlass.pack(weight, cutlass.plan(mask, torch.bfloat16))
    expected = pack(weight, mask)
    for ours, theirs in ((values, expected.values), (values_t, expected.values_t)):
        assert torch.equal(bits(ours), bits(theirs))
    for ours, theirs in ((meta, expected.meta), (meta_t, expected.meta_t)):
        assert torch.equal(ours.permute(2, 0, 1).flatten(), theirs.flatten())  # (rows, 2, cols / 32), columns outermost


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_packed_values_are_the_kept_ones_bit_for_bit(route, dtype):
    kind, device = route
    if kind.name == "cusparselt":
        pytest.skip("its format is opaque")
    mask, weight = random_mask(128, 192), torch.randn(128, 192).to(dtype)
    weight[::3, ::5] = -0.0
    (values, *_), (values_t, *_) = kind.pack(weight.to(device), kind.plan(mask.to(device), dtype))
    expected = pack(weight, mask)
    assert torch.equal(bits(values.cpu()), bits(expected.values))
    assert torch.equal(bits(values_t.cpu()), bits(expected.values_t))


def test_cutlass_metadata_are_the_references(emulated_cutlass):
    mask = random_mask(128, 192)
    meta, meta_t, *_ = emulated_cutlass.plan(mask, torch.bfloat16)
    expected = pack(torch.ones(128, 192), mask)
    for ours, theirs in ((meta, expected.meta), (meta_t, expected.meta_t)):
        assert torch.equal(ours.permute(2, 0, 1).flatten(), theirs.flatten())  # columns of words outermost in memory


def test_a_packing_kernel_that_changes_the_mask_is_found(emulated_cutlass, monkeypatch):
    mask = random_mask(128, 192)
    other = random_mask(128, 192, seed=1)
    tile = torch._sparse_semi_structured_tile
    monkeypatch.setattr(torch, "_sparse_semi_structured_tile", lambda weight, **_: tile(other.to(weight.dtype), **_))
    with pytest.raises(KernelError, match="the packing kernel changed the mask on cpu"):
        emulated_cutlass.plan(mask, torch.bfloat16)


def test_a_plan_is_not_reached_by_later_writes_to_the_mask(route):
    kind, device = route
    mask, weight = random_mask(128, 192).to(device), torch.randn(128, 192, device=device).bfloat16()
    plan = kind.plan(mask, torch.bfloat16)
    before = kind.pack(weight, plan)
    mask.zero_()
    for ours, theirs in zip(itertools.chain(*kind.pack(weight, plan)), itertools.chain(*before), strict=True):
        assert torch.equal(ours.contiguous().view(torch.int16), theirs.contiguous().view(torch.int16))

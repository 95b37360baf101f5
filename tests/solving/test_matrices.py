"""Whole matrices, solved where they lie, against the same blocks solved apart."""

import threading
import tracemalloc
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tmask
from tests.strategies import KINDS
from tmask.blocks.arrays import to_scores
from tmask.solving.matrices import MatrixSolver
from tmask_solvers.midpoint import Midpoint

# Few patterns and dtypes, since each pair is compiled once: ragged tiles of 4:8 are 4:16 blocks, another one.
# In float32 (and float16) 1:4, 2:4 and 3:4 are closed forms.
COMPILED = [("float32", "1:4"), ("float32", "2:4"), ("float32", "3:4"), ("float32", "3:5"), ("float32", "4:8")]
COMPILED += [("float16", "2:4"), ("float16", "4:8"), ("float64", "4:8")]
RAGGED = [("float32", "2:4"), ("float16", "4:8"), ("float32", "4:8")]
EXACTLY_SOLVED = sorted(set(KINDS) - {"wide range", "one huge"})


def weight_of(kind: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """A weight of any shape and both signs, of one kind."""
    rng = np.random.default_rng(seed)
    entries = KINDS[kind](rng, (-(-int(np.prod(shape)) // 64), 8, 8)).ravel()[: int(np.prod(shape))]
    return np.float32(entries.reshape(shape) * rng.choice([-1, 1], shape))


def by_blocks(weight, pattern: str, groups: int = 1) -> float:
    """The optimum by another solver, block by block."""
    return tmask.solve(weight, pattern, "augmenting-paths", groups=groups).objective


def assert_right(weight, pattern: str, groups: int = 1, exact: bool = True, **settings) -> tmask.Solution:
    """Solve, and look at the mask and all that is said of it."""
    solution = tmask.solve(weight, pattern, "midpoint", groups=groups, **settings)
    tmask.check_mask(solution.mask, pattern, groups=groups)
    scores = to_scores(weight).astype(np.float64)
    assert solution.mask.shape == scores.shape
    assert solution.objective == pytest.approx(scores[np.asarray(solution.mask)].sum(), rel=1e-12, abs=0)
    assert solution.total == pytest.approx(scores.sum(), rel=1e-12, abs=0)
    assert solution.objective == pytest.approx(by_blocks(weight, pattern, groups), rel=1e-12 if exact else 1e-9, abs=0)
    assert solution.status is tmask.Status.OPTIMAL
    if exact:
        assert solution.optimality_gap == 0
    return solution


def rows_in(array: np.ndarray) -> np.ndarray:
    wide = np.zeros((len(array), array.shape[1] + 3), array.dtype)
    wide[:, 1:-2] = array
    return wide[:, 1:-2]


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


def unaligned(array: np.ndarray) -> np.ndarray:
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype)
    raw[:] = array.ravel()
    return raw.reshape(array.shape)


LAYOUTS = {
    "plain": lambda w: w,
    "transposed": lambda w: np.ascontiguousarray(w.T).T,
    "rows of a wider one": rows_in,
    "every second column": lambda w: np.repeat(w, 2, axis=1)[:, ::2],
    "backwards": lambda w: w[::-1, ::-1].copy()[::-1, ::-1],
    "read-only": read_only,
    "other byte order": lambda w: w.astype(w.dtype.newbyteorder()),
    "unaligned": unaligned,
    "subclass": lambda w: w.view(np.matrix),
}


@st.composite
def matrices(draw):
    """(weight, pattern), of any layout; a few with ragged tiles."""
    ragged = draw(st.booleans())
    dtype, pattern = draw(st.sampled_from(RAGGED if ragged else COMPILED))
    m = tmask.Pattern.parse(pattern).m
    shape = (draw(st.integers(1, 5)) * m, draw(st.integers(1, 140 // m)) * m)
    if ragged:
        shape = (shape[0] - draw(st.integers(0, m - 1)), shape[1] - draw(st.integers(0, m - 1)))
    kind = draw(st.sampled_from(["normal", "ties", "half zeros", "bf16", "constant", "rank one"]))
    weight = weight_of(kind, shape, draw(st.integers(0, 99))).astype(dtype)
    return LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](weight), pattern


@given(matrices())
@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_a_matrix_of_any_shape_dtype_and_layout(problem):
    assert_right(*problem)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_every_layout_gives_the_same_mask(layout, dtype):
    """Nor is a bit of float64 lost: these scores are one to float32."""
    weight = weight_of("normal", (24, 72)).astype(dtype)
    if dtype == "float64":
        weight = 1 + 2.0**-30 * weight
    expected, found = tmask.solve(weight, "4:8"), tmask.solve(LAYOUTS[layout](weight), "4:8")
    np.testing.assert_array_equal(found.mask, expected.mask)
    assert (found.objective, found.total) == (expected.objective, expected.total)


@given(
    st.sampled_from(["2:4", "4:8"]),
    st.sampled_from([1, 2, 3]),
    st.tuples(st.integers(1, 17), st.integers(1, 70)),
    st.sampled_from([(), (1, 1), (3, 1), (2, 3)]),
    st.booleans(),
    st.integers(0, 99),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_convolutions(pattern, groups, sides, kernel, channels_last, seed):
    shape = (groups * sides[0], sides[1], *kernel)
    weight = weight_of("normal", shape, seed)
    if channels_last:
        weight = np.moveaxis(np.ascontiguousarray(np.moveaxis(weight, 1, -1)), -1, 1)
    assert_right(weight, pattern, groups)


@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
@pytest.mark.parametrize("kind", EXACTLY_SOLVED)
def test_every_kind_of_score(pattern, kind):
    assert_right(weight_of(kind, (48, 88)), pattern)


@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
@pytest.mark.parametrize("kind", ["wide range", "one huge"])
def test_a_wide_range_costs_no_more_than_is_said(pattern, kind):
    weight = weight_of(kind, (48, 88))
    solution = assert_right(weight, pattern, exact=False)
    assert 0 <= solution.optimality_gap <= 2.0**-35


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("float16", (16, 96)),
        ("bfloat16", (17, 45)),
        ("bfloat16", (16, 24, 3, 3)),
        ("float32", (16, 24, 3, 3)),
        ("float64", (16, 96)),
    ],
)
def test_torch_tensors(dtype, shape):
    torch = pytest.importorskip("torch")
    weight = torch.from_numpy(weight_of("normal", shape)).to(getattr(torch, dtype)).requires_grad_()
    for tensor in (weight, weight.transpose(0, 1)):
        solution = assert_right(tensor, "4:8")
        assert solution.mask.dtype == torch.bool
        same = tmask.solve(tensor.detach().to(torch.float64 if dtype == "float64" else torch.float32), "4:8")
        np.testing.assert_array_equal(solution.mask, same.mask)
    if len(shape) == 4:
        assert_right(weight.detach().to(memory_format=torch.channels_last), "4:8")


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((4, 4), "float32"),
        ((4, 60), "float32"),
        ((5000, 4), "float32"),
        ((8, 70_000), "float16"),  # cut by columns in the stage
        ((2048, 1032), "float32"),  # several bands
    ],
)
@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
def test_narrow_flat_and_large_ones(shape, dtype, pattern):
    if pattern == "4:8":
        shape = tuple(side // 8 * 8 or 8 for side in shape)
    assert_right(weight_of("normal", shape).astype(dtype), pattern)


def test_float64_is_cut_by_columns_too():
    assert_right(weight_of("normal", (8, 40_000)).astype(">f8"), "4:8")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [(0, 0), (15, 63), (7, 64), (16, 3), (16, 66)])  # the last three in ragged tiles
@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
def test_what_is_not_finite_is_named_as_ever(dtype, value, index, pattern):
    if dtype == "float64" and (pattern == "2:4" or index[0] == 16):
        index, pattern = (index[0] % 16, index[1] % 64), "4:8"  # one that is compiled
    shape = (16, 64) if dtype == "float64" and index[1] < 64 else (17, 67)
    weight = weight_of("normal", shape).astype("float32" if dtype == "bfloat16" else dtype)
    weight[index] = value
    if dtype == "bfloat16":
        torch = pytest.importorskip("torch")
        weight = torch.from_numpy(weight).bfloat16()
    texts = []
    for solver in ("midpoint", "augmenting-paths"):
        with pytest.raises(tmask.InvalidProblemError) as caught:
            tmask.solve(weight, pattern, solver)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert f"weight: 1 NaN or infinite values ({int(np.isnan(value))} NaN), first at index {index};" in texts[0]


@pytest.mark.parametrize("shape", [(16, 64), (7, 7)])
@pytest.mark.filterwarnings("error")
def test_a_sum_that_overflows_is_named(shape):
    with pytest.raises(tmask.InvalidProblemError, match="the sum of its scores overflows float64"):
        tmask.solve(np.full(shape, 1e308), "4:8", "midpoint")


def test_scores_replace_magnitudes_in_place():
    weight, score = weight_of("normal", (17, 72)), np.abs(weight_of("normal", (17, 72), seed=1))
    solution = tmask.solve(weight, "4:8", "midpoint", score=score)
    np.testing.assert_array_equal(solution.mask, tmask.solve(score, "4:8", "midpoint").mask)
    assert solution.objective == tmask.solve(score, "4:8", "midpoint").objective
    score[16, 70] = np.nan
    with pytest.raises(tmask.InvalidProblemError, match=r"score: 1 NaN .* first at index \(16, 70\)"):
        tmask.solve(weight, "4:8", "midpoint", score=score)


THREADED = {
    "normal": lambda: weight_of("normal", (2048, 1024)),
    "ties": lambda: weight_of("ties", (2048, 1024)),
    # Blocks above 2^90, with ties, take paths from the start: they must not begin where the last one left off.
    "huge ties": lambda: weight_of("ties", (512, 2048)) * np.float32(1e37),
    "staged": lambda: weight_of("ties", (1024, 1024)).T,
    "many small": lambda: weight_of("ties", (64, 64, 5, 5)),
    "ragged": lambda: weight_of("ties", (2045, 515)),
}


@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
@pytest.mark.parametrize("case", sorted(THREADED))
def test_the_number_of_threads_changes_nothing(case, pattern, monkeypatch):
    monkeypatch.setattr("tmask.blocks.parts._DIRECT_ENTRIES", 1 << 16)
    weight = THREADED[case]()
    one, *others = (tmask.solve(weight, pattern, "midpoint", threads=threads) for threads in (1, 2, 3, 8))
    for other in others:
        np.testing.assert_array_equal(other.mask, one.mask)
        assert (other.objective, other.dual_bound, other.total) == (one.objective, one.dual_bound, one.total)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("after", [1, 5])
def test_an_interrupt_leaves_nothing_behind(threads, after, monkeypatch):
    monkeypatch.setattr("tmask.blocks.parts._DIRECT_ENTRIES", 1 << 16)
    weight = weight_of("ties", (4096, 1024))
    expected = tmask.solve(weight, "4:8", "midpoint", threads=threads).mask
    started = []

    class Counting(Midpoint):
        def _worker(self, n, m, dtype):
            solve_part = super()._worker(n, m, dtype)
            return lambda *part: started.append(1) or solve_part(*part)

    calls = []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == after:
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        tmask.solve(weight, "4:8", Counting(threads=threads), progress=interrupt)
    assert threading.active_count() == before
    assert len(calls) == after
    assert after <= len(started) <= after + 2 * threads < 64  # of 64 parts
    np.testing.assert_array_equal(tmask.solve(weight, "4:8", "midpoint", threads=threads).mask, expected)


def test_progress_counts_every_block_in_the_order_of_the_parts(monkeypatch):
    monkeypatch.setattr("tmask.blocks.parts._DIRECT_ENTRIES", 1 << 14)
    counts = []
    tmask.solve(
        weight_of("normal", (2056, 1030)), "4:8", "midpoint", threads=3, progress=lambda *told: counts.append(told)
    )
    assert counts[-1] == (257 * 129, 257 * 129, "")
    assert counts == sorted(counts)
    assert len(counts) > 10


@dataclass(frozen=True)
class Circulant(MatrixSolver):
    """Masks that are regular, whatever the weight; or not quite."""

    threads: int = 1
    spoil: tuple[int, int] | None = None
    slack: float = 0.0
    name: ClassVar[str] = "circulant"

    def _solve(self, scores, n):
        raise NotImplementedError

    def _worker(self, n, m, dtype):
        def solve(weight, mask, start):
            rows, cols = np.indices(weight.shape)
            mask[...] = (cols - rows) % m < n
            if self.spoil is not None:
                mask[self.spoil] ^= True
            return self.slack

        return solve


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("spoil", [(0, 0), (7, 9), (-1, -1)])
@pytest.mark.parametrize("pattern", ["2:4", "3:5", "8:16", "3:32"])
def test_what_is_no_mask_is_refused(spoil, pattern, threads):
    before = threading.active_count()
    with pytest.raises(tmask.SolverFailedError, match=rf"'circulant' returned what is no {pattern} mask"):
        tmask.solve(weight_of("normal", (160, 320)), pattern, Circulant(threads=threads, spoil=spoil))
    assert threading.active_count() == before


def test_slack_is_added_to_the_bound(monkeypatch):
    monkeypatch.setattr("tmask.blocks.parts._DIRECT_ENTRIES", 1 << 14)
    weight = weight_of("normal", (2048, 1024))
    solution = tmask.solve(weight, "4:8", Circulant(slack=0.5))
    tmask.check_mask(solution.mask, "4:8")
    parts = (solution.dual_bound - solution.objective) / 0.5
    assert parts > 10
    assert parts == pytest.approx(round(parts), abs=1e-6)
    assert solution.status is tmask.Status.FEASIBLE
    assert tmask.solve(weight, "4:8", Circulant()).status is tmask.Status.OPTIMAL
    assert tmask.solve(weight, "4:8", Circulant(slack=0.5), certify=False).dual_bound is None


def test_a_matrix_solver_without_numba_is_examined_too(monkeypatch):
    monkeypatch.setattr("tmask.solving.matrices.find_compiled_kernels", lambda: None)
    assert_right(weight_of("normal", (32, 96)), "4:8")
    with pytest.raises(tmask.SolverFailedError):
        tmask.solve(weight_of("normal", (32, 96)), "4:8", Circulant(spoil=(7, 9)))


def test_keeping_all_needs_no_solver():
    assert tmask.solve(weight_of("normal", (8, 8)), "4:4", Circulant(spoil=(0, 0))).mask.all()


MEASURED = {
    "direct": lambda: weight_of("normal", (1024, 2048)),
    "half": lambda: weight_of("normal", (1024, 1024)).astype(np.float16),
    "transposed": lambda: weight_of("normal", (1024, 1024)).T,
    "kernel": lambda: weight_of("normal", (256, 128, 3, 3)),
    "depthwise": lambda: weight_of("normal", (4096, 8, 3, 1)),
    "narrow": lambda: weight_of("normal", (60_000, 8)),
    "ragged": lambda: weight_of("normal", (1021, 1021)),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
@pytest.mark.parametrize("case", sorted(MEASURED))
def test_memory_beyond_input_and_mask_stays_below_a_mebibyte_a_thread(case, pattern, threads, monkeypatch):
    weight = MEASURED[case]()
    groups = 512 if case == "depthwise" else 1

    def solve():
        return tmask.solve(weight, pattern, "midpoint", threads=threads, groups=groups)

    solve()  # compiled, imported
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        mask = solve().mask
        peak = tracemalloc.get_traced_memory()[1] - before - mask.nbytes
    finally:
        tracemalloc.stop()
    assert peak < threads * 2**20

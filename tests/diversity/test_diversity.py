"""Counts of masks: against brute force, against one another, and against published numbers."""

import itertools
import math
import re
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tmask
from tmask.diversity import (
    CONSTRAINTS,
    Diversity,
    cut_short_count,
    kept_of,
    model_diversity,
    pattern_diversity,
    plain_count,
    product_formula,
    root_points,
    roots,
    structured_count,
    tensor_diversity,
    transposable_bounds,
    transposable_count,
    transposable_estimate,
    unstructured_count,
)
from tmask.diversity.capacities import count_by_capacities
from tmask.plots.diversity import draw_diversity


def all_masks(shape):
    size = math.prod(shape)
    bits = (np.arange(2**size)[:, None] >> np.arange(size)) & 1
    return bits.astype(bool).reshape(-1, *shape)


def brute_force(shape, accepts):
    return sum(map(accepts, all_masks(shape)))


def accepted_by_check_mask(pattern, groups=1):
    def accepts(mask):
        try:
            tmask.check_mask(mask, pattern, groups=groups)
        except tmask.InvalidMaskError:
            return False
        return True

    return accepts


# OEIS A001499 is the column n = 2, A001501 n = 3, A008300 the triangle, A058527 the middle.
PUBLISHED = {
    (1, 4): 24, (2, 4): 90, (2, 5): 2040, (2, 6): 67950, (2, 7): 3110940, (2, 8): 187530840, (3, 6): 297200,
    (3, 8): 24046189440, (4, 8): 116963796250, (2, 10): 1371785398200, (5, 10): 6736218287430460752,
    (2, 16): 36574751938491748341360000,
}  # fmt: skip


@pytest.mark.parametrize(("n", "m"), PUBLISHED, ids=str)
def test_published_counts(n, m):
    assert transposable_count(n, m) == PUBLISHED[n, m]
    assert transposable_count(m - n, m) == PUBLISHED[n, m]


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_brute_force(m):
    masks = all_masks((m, m))
    for n in range(1, m + 1):
        expected = ((masks.sum(1) == n).all(1) & (masks.sum(2) == n).all(1)).sum()
        assert transposable_count(n, m) == expected
        assert plain_count(n, m) == (masks.sum(2) == n).all(1).sum()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_side_five_by_brute_force(n):
    rows = np.array([np.isin(range(5), kept) for kept in itertools.combinations(range(5), n)], np.int8)
    sums = rows
    for _ in range(4):
        sums = (sums[:, None] + rows).reshape(-1, 5)  # of every choice of one more row
    assert transposable_count(n, 5) == (sums == n).all(1).sum()


@settings(max_examples=40)
@given(st.integers(2, 9), st.data())
def test_both_methods_agree(m, data):
    n = data.draw(st.integers(1, m - 1))
    assert roots.exactly(m, n, math.comb(m, n) ** m) == count_by_capacities(m, m, n, exact=True)


@settings(max_examples=60)
@given(st.integers(2, 8), st.integers(2, 8), st.data())
def test_both_methods_agree_where_tiles_are_cut_short(rows, cols, data):
    n = data.draw(st.integers(1, min(rows, cols) - 1))
    found = roots.at_most(rows, cols, n)
    assert found == count_by_capacities(rows, cols, n, exact=False)
    assert found == roots.at_most(cols, rows, n)


def test_the_table_of_partial_points_is_joined_rightly(monkeypatch):
    """Also where it is too small for all the roots, or for more than one of them."""
    expected = transposable_count(4, 8)
    for table in (1, 200, 1000, 10**6):
        for calls in (1, 10**9):
            monkeypatch.setattr(root_points, "_TABLE", table)
            monkeypatch.setattr(root_points, "_CALLS", calls)
            assert roots.exactly(8, 4, math.comb(8, 4) ** 8) == expected
            assert roots.at_most(7, 6, 4) == count_by_capacities(7, 6, 4, exact=False)


def test_side_sixteen():
    assert transposable_count(1, 16) == math.factorial(16)
    assert transposable_count(8, 16) == 34812290428176298285394893936773707951192224124239796250
    low, high = transposable_bounds(7, 16)
    assert low < math.log2(transposable_count(7, 16)) < high
    assert transposable_count(9, 16) == transposable_count(7, 16)


def test_side_thirty_two():
    assert transposable_count(1, 32) == math.factorial(32)
    # The recurrence of A001499.
    a = [1, 0]
    for k in range(2, 33):
        a.append(k * (k - 1) * (2 * a[k - 1] + (k - 1) * a[k - 2]) // 2)
    assert transposable_count(2, 32) == transposable_count(30, 32) == a[32]
    with pytest.raises(tmask.InvalidProblemError, match="out of reach"):
        transposable_count(23, 32)
    with pytest.raises(tmask.InvalidProblemError, match=r"16:32.*out of reach.*845\.3 <= log2 <= 933\.2.*847\.1"):
        transposable_count(16, 32)


@settings(max_examples=60)
@given(st.integers(1, 12), st.data())
def test_bounds_and_estimate(m, data):
    n = data.draw(st.integers(1, m))
    log2 = math.log2(transposable_count(n, m))
    low, high = transposable_bounds(n, m)
    assert low - 1e-9 <= log2 <= high + 1e-9
    assert low > 0.9 * log2 - 1
    assert abs(transposable_estimate(n, m) - log2) <= 0.3 / m + 1e-9


def test_the_product_formula_is_no_upper_bound():
    assert [product_formula(n, 4) for n in (1, 2, 3, 4)] == [24, 144, 288, 288]
    assert product_formula(4, 8) == 17557585920000
    below = {(n, m) for m in range(1, 13) for n in range(1, m + 1) if product_formula(n, m) < transposable_count(n, m)}
    assert below == {(2, 10), (2, 11), (2, 12)}


@settings(max_examples=50)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
def test_tiles_cut_short(height, width, n):
    masks = all_masks((height, width))
    expected = ((masks.sum(1) <= n).all(1) & (masks.sum(2) <= n).all(1)).sum()
    assert cut_short_count(height, width, n) == expected


def test_a_large_tile_cut_short():
    assert cut_short_count(10, 11, 5) == cut_short_count(11, 10, 5)
    assert cut_short_count(15, 15, 14) == 2**225 - _with_a_full_line(15)
    assert cut_short_count(40, 3, 3) == cut_short_count(3, 40, 3) == (1 + 40 + 780 + 9880) ** 3
    with pytest.raises(tmask.InvalidProblemError, match=r"tile of 31 x 31 .*out of reach"):
        cut_short_count(31, 31, 16)


def _with_a_full_line(side):
    """Masks with a row or a column all kept: all but those without, by inclusion and exclusion."""
    without = sum(
        (-1) ** (r + c) * math.comb(side, r) * math.comb(side, c) * 2 ** ((side - r) * (side - c))
        for r in range(side + 1)
        for c in range(side + 1)
    )
    return 2 ** (side * side) - without


@pytest.mark.parametrize(
    ("shape", "pattern", "groups"),
    [
        ((3, 3), "1:2", 1), ((2, 5), "1:2", 1), ((3, 4), "2:3", 1), ((3, 3), "2:4", 1), ((5, 2), "2:4", 1),
        ((2, 3, 2, 1), "1:2", 1), ((4, 1, 1, 2), "1:2", 2), ((6, 2), "2:3", 2), ((1, 9), "1:3", 1), ((2, 2), "2:2", 1),
    ],
)  # fmt: skip
def test_tensors_allow_what_check_mask_accepts(shape, pattern, groups):
    found = tensor_diversity(shape, pattern, groups=groups)
    expected = brute_force(shape, accepted_by_check_mask(pattern, groups))
    assert found.count() == expected
    assert found.exact
    assert found.log2 == pytest.approx(math.log2(expected), abs=1e-9)
    assert found.bits_per_weight == found.log2 / math.prod(shape)


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 2, 1), (1, 9)])
@pytest.mark.parametrize("pattern", ["1:2", "2:3", "2:4"])
def test_plain_keeps_n_of_every_m_inputs(shape, pattern):
    n, m = map(int, pattern.split(":"))

    def accepts(mask):
        groups = [mask[:, start : start + m] for start in range(0, shape[1], m)]
        return all((g.sum(1) == n).all() if g.shape[1] == m else (g.sum(1) <= n).all() for g in groups)

    assert tensor_diversity(shape, pattern, "plain").count() == brute_force(shape, accepts)


def test_unstructured_and_structured():
    assert tensor_diversity((4, 6), "1:4", "unstructured").count() == math.comb(24, 6) == unstructured_count(24, 0.25)
    assert tensor_diversity((8, 9, 3, 1), "2:4", "structured").count() == math.comb(18, 9) == structured_count(18, 0.5)
    large = tensor_diversity((4096, 4096), "2:4", "unstructured")
    assert large.bits_per_weight == pytest.approx(1, abs=1e-5)
    half = tensor_diversity((120, 120), "2:4", "unstructured")
    assert half.log2 == pytest.approx(math.log2(half.count()), rel=1e-12)


def test_the_share_kept_is_rounded_to_even():
    assert [kept_of(size, 0.5) for size in (1, 2, 3, 5)] == [0, 1, 2, 2]
    assert kept_of(9, Fraction(1, 3)) == 3
    for size, density in ((0, 0.5), (4, -0.1), (4, 1.5), (4, float("nan"))):
        with pytest.raises(tmask.InvalidProblemError, match=r"size 0|density"):
            kept_of(size, density)


def test_diversity_known_from_the_field():
    by_pattern = {str(row.pattern): row for row in pattern_diversity(["2:4", "4:8", "8:16", "16:32", "2:4"])}
    assert list(by_pattern) == ["2:4", "4:8", "8:16", "16:32"]
    bits = {pattern: row.bits for pattern, row in by_pattern.items()}
    assert bits["2:4"]["transposable"] == pytest.approx(0.4057, abs=1e-4)
    assert bits["4:8"]["transposable"] == pytest.approx(0.5745, abs=1e-4)
    assert bits["8:16"]["transposable"] == pytest.approx(0.7207, abs=1e-4)
    assert bits["2:4"]["plain"] == pytest.approx(0.6462, abs=1e-4)
    assert bits["4:8"]["plain"] == pytest.approx(0.7662, abs=1e-4)
    for row in by_pattern.values():
        assert row.bits["structured"] < row.bits["transposable"] < row.bits["plain"] < row.bits["unstructured"] < 1
    assert 2 ** by_pattern["2:4"].log2_overcount == pytest.approx(1.6)
    assert by_pattern["16:32"].masks is None
    assert by_pattern["16:32"].log2 == transposable_estimate(16, 32)


def test_of_a_model():
    found = model_diversity({"conv": (8, 2, 3, 1), "fc": (16, 12)}, "2:4", groups={"conv": 2})
    assert list(found) == ["conv", "fc"]
    assert list(found["fc"]) == list(CONSTRAINTS)
    assert found["conv"]["transposable"] == tensor_diversity((8, 2, 3, 1), "2:4", groups=2)
    assert found["fc"]["transposable"].count() == 90**12
    estimated = model_diversity({"fc": (64, 32)}, "16:32", ["transposable"])["fc"]["transposable"]
    assert not estimated.exact
    assert estimated.log2 == 2 * transposable_estimate(16, 32)
    with pytest.raises(tmask.InvalidProblemError, match="only an estimate"):
        estimated.count()
    with pytest.raises(tmask.InvalidProblemError, match=r"16:32.*out of reach"):
        tensor_diversity((64, 32), "16:32")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: transposable_count(5, 4), "did you mean 4:5"),
        (lambda: transposable_count(0, 4), "0 < n <= m"),
        (lambda: transposable_count(2, 64), "at most 32"),
        (lambda: plain_count(1.5, 4), "must be an integer"),
        (lambda: cut_short_count(0, 3, 1), "must be at least 1"),
        (lambda: tensor_diversity((4, 4), "2:4", "diagonal"), "choose from unstructured, plain"),
        (lambda: tensor_diversity((4,), "2:4"), "at least two axes"),
        (lambda: tensor_diversity((5, 4), "2:4", groups=2), "groups do not divide"),
        (lambda: tensor_diversity((4, 4), "2/4"), "write it as"),
        (lambda: model_diversity({}, "2:4"), "no layers"),
        (lambda: model_diversity({"a": (4, 4)}, "2:4", groups={"b": 2}), "given for b"),
        (lambda: model_diversity({"a": (4, 4), "b": (3,)}, "2:4"), "layer 'b': "),
        (lambda: draw_diversity({}, "a.png"), "0 series"),
    ],
)
def test_bad_input(call, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(tmask.InvalidProblemError, match=says):
        call()


BITS = {tmask.Pattern(n, 4): dict(zip(CONSTRAINTS, (0.9, 0.6, 0.4, 0.05 * n), strict=True)) for n in (1, 2)}


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_figure(tmp_path, ending):
    pytest.importorskip("matplotlib")
    path = draw_diversity(BITS, tmp_path / f"figure.{ending}")
    before = path.read_bytes()
    assert len(before) > 5000
    assert draw_diversity(BITS, path).read_bytes() == before
    with pytest.raises(tmask.OutputError, match="exists already"):
        draw_diversity(BITS, path, overwrite=False)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_figure_names_all_it_shows(tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    estimated = [(next(iter(BITS)), "transposable")]
    svg = draw_diversity(BITS, tmp_path / "a.svg", title="Of a model", estimated=estimated).read_text()
    for text in (*CONSTRAINTS, "1:4", "2:4", "Of a model", "(bits)", "hollow: an estimate"):
        assert text in svg


def test_a_figure_that_cannot_be_drawn(tmp_path, monkeypatch):
    with pytest.raises(tmask.OutputError, match=r"must end in \.png, \.svg, \.pdf"):
        draw_diversity(BITS, tmp_path / "figure.txt")
    with pytest.raises(tmask.OutputError, match="does not exist"):
        draw_diversity(BITS, tmp_path / "no" / "figure.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(tmask.SolverUnavailableError, match=r'pip install "tmask\[plot\]"'):
        draw_diversity(BITS, tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []


def test_a_diversity_shows_what_matters():
    shown = repr(tensor_diversity((8, 8), "2:4"))
    assert isinstance(tensor_diversity((8, 8), "2:4"), Diversity)
    assert "log2=25.96" in shown
    assert "_powers" not in shown


PAGE = (Path(__file__).parents[2] / "docs/explanation/diversity.md").read_text()


def test_the_code_of_the_page_runs():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(code, names)
    assert f"{names['layer'].bits_per_weight:.4f}" in code
    assert f"of {names['layer'].count().bit_length()} bits" in code
    assert str(transposable_count(8, 16)) in code


def test_the_tables_of_the_page_are_what_is_counted():
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if re.match(r"\| \d+:", line)
    ]
    counts, formulas = cells[: len(cells) // 2], cells[len(cells) // 2 :]
    for row, count, formula in zip(pattern_diversity(), counts, formulas, strict=True):
        mark = "~" if row.masks is None else ""
        log2_formula = row.log2 + row.log2_overcount
        assert count[:2] == [str(row.pattern), _shown(row.masks, row.log2)]
        names = ("transposable", "plain", "unstructured", "structured")
        assert count[2:] == [(mark if name == "transposable" else "") + f"{row.bits[name]:.4f}" for name in names]
        assert formula[:3] == [str(row.pattern), _shown(row.formula, log2_formula), _shown(row.masks, row.log2)]
        ratio = f"{2**row.log2_overcount:.4g}".replace("e+", "e") if row.masks else f"~2^{row.log2_overcount:.1f}"
        assert formula[3:] == [ratio, f"{log2_formula / row.pattern.m**2:.4f}"]


def _shown(value, log2):
    if value is not None and value < 1e15:
        return str(value)
    exponent = math.floor(log2 * math.log10(2))
    mantissa = 10 ** (log2 * math.log10(2) - exponent)
    return f"~{mantissa:.2f}e{exponent}" if value is None else f"{mantissa:.3f}e{exponent}"

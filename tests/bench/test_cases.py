"""The benchmark's cases are what their names say, and its commands run."""

import csv
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from bench.cases import CASES, PATTERNS, bfloat16, weight_case
from bench.report import main as report
from bench.report import table
from bench.run import main as run_all
from tests.bench.pages import unpadded
from tmask.comparison.builtin import builtin_weights
from tmask.errors import FileFormatError, InvalidProblemError, OutputError


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_cases_give_scores_that_can_be_repeated(case, pattern):
    blocks = case.blocks(pattern, 8)
    assert blocks.dtype == np.float32
    assert blocks.shape[1:] == (pattern.m, pattern.m)
    assert 1 <= len(blocks) <= 8
    assert np.isfinite(blocks).all()
    assert (blocks >= 0).all()
    assert blocks.any()
    np.testing.assert_array_equal(blocks, case.blocks(pattern, 8))


def test_bfloat16_rounds_to_nearest_even():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    np.testing.assert_array_equal(bfloat16(x), torch.from_numpy(x).bfloat16().float().numpy())


def test_real_weights_come_from_the_file():
    case = weight_case(builtin_weights(), "mine")
    assert case.name == "mine"
    assert len(case.blocks(PATTERNS[0], 10**6)) > 1000


def test_a_small_run_and_its_report(tmp_path):
    out = tmp_path / "solvers.csv"
    run = [sys.executable, "-m", "bench.run", "--cases", "normal", "--patterns", "2:4", "--solvers", "patterns,bi-nm"]
    run += ["--repeats", "2", "--seconds-per-solver", "0.01", "--out", str(out)]
    subprocess.run(run, check=True, capture_output=True)
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["solver"], row["repeat"]) for row in rows] == [
        ("patterns", "0"), ("bi-nm", "0"), ("patterns", "1"), ("bi-nm", "1"),
    ]  # fmt: skip
    assert {"commit", "cpu", "threads", "numpy", "seconds", "dual_bound"} <= set(rows[0])
    assert "| patterns | " in unpadded(table(rows, "normal"))
    subprocess.run([*run, "--resume"], check=True, capture_output=True)
    assert len(out.read_text().splitlines()) == 5
    subprocess.run([sys.executable, "-m", "bench.report", str(out)], check=True, capture_output=True)
    assert (tmp_path / "gap_time.png").is_file()


def test_a_case_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(InvalidProblemError, match=r"no case 'nromal'; there are: normal, "):
        run_all(out=tmp_path / "solvers.csv", cases="normal,nromal")


def test_weights_too_small_for_a_pattern_are_refused(tmp_path):
    path = tmp_path / "small.safetensors"
    save_file({"w": np.ones((8, 8), np.float32)}, path)
    with pytest.raises(InvalidProblemError, match=r"small\.safetensors has no full 32 x 32 block"):
        weight_case(path).blocks(PATTERNS[-1], 4)


def test_no_rows_no_report(tmp_path):
    with pytest.raises(FileFormatError, match=r"none\.csv has no rows"):
        report(tmp_path / "none.csv")


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.run.compare", lambda *_, **__: pytest.fail("measured first"))
    with pytest.raises(OutputError, match="no-such-folder"):
        run_all(out=tmp_path / "no-such-folder" / "solvers.csv", cases="normal", patterns="2:4", solvers="patterns")

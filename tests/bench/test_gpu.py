"""The benchmark on a device, with tensors on the CPU and a timer that is told what to say."""

import itertools

import pytest
import typer

import tmask

pytest.importorskip("torch")

import torch

from bench import gpu, gpu_calls
from bench.gpu_report import report
from tests.bench.pages import unpadded
from tmask.blocks.pattern import Pattern
from tmask.solving import entry


def scripted(*seconds):
    """A timer that makes each call and gives these times in turn, the last one for ever."""
    times = itertools.chain(seconds, itertools.repeat(seconds[-1]))
    return lambda call: (next(times), call())


@pytest.fixture(scope="module")
def rows():
    patterns = [Pattern(2, 4), Pattern(4, 8)]
    groups = gpu.groups_of("cpu", patterns, [32], ["bfloat16"], scripted(0.5, 0.25), 2, 10.0)
    return [{"device": "X1"} | row for group in groups for row in group]


def test_every_solver_is_timed_alone_and_as_a_user_calls_it(rows):
    solvers = {name for name in gpu_calls.SOLVERS if name in tmask.available_solvers()} - {"midpoint-cuda"}
    assert {"midpoint-torch", "entropic", "greedy-keep"} <= solvers
    for pattern in ((2, 4), (4, 8)):
        own = [row for row in rows if (row["n"], row["m"]) == pattern]
        assert {row["solver"] for row in own if row["call"] == "masks"} == solvers
        assert {row["solver"] for row in own if row["call"] == "solve"} == {*solvers, "midpoint, CPU"}
        assert {row["solver"] for row in own if row["call"] == "memory"} == {"copy", "floor"}
        for row in own:
            assert set(row) == {"device", *gpu.COLUMNS}
            assert row["blocks"] in ("", 1024 // pattern[1] ** 2)
    for call in ("ties", "layers"):
        assert {row["solver"] for row in rows if row["call"] == call} == {"midpoint-torch"}
    assert {row["gap"] for row in rows if row["call"] == "layers"} == {0.0}
    assert {row["bytes"] for row in rows if row["solver"] == "copy"} == {2 * 2 * 1024}
    assert {row["bytes"] for row in rows if row["solver"] == "floor"} == {3 * 1024}
    assert {row["gap"] for row in rows if row["call"] == "solve" and row["solver"] == "midpoint-torch"} == {0.0}


def test_on_a_machine_with_a_gpu_the_cpu_is_left_to_solvers_that_take_it(monkeypatch):
    monkeypatch.setattr(entry, "_has_driver", lambda: True)
    assert "midpoint-cuda" in tmask.available_solvers()
    timed = {name for _, name in gpu_calls.calls_on(torch.randn(8, 8), Pattern(2, 4))}
    assert "midpoint-torch" in timed
    assert "midpoint-cuda" not in timed
    assert gpu_calls.solvers_on("cuda")[0] == "midpoint-cuda"


def test_solvers_can_be_chosen(tmp_path):
    timed = gpu_calls.calls_on(torch.randn(8, 8), Pattern(2, 4), ["entropic", "midpoint"])
    assert {name for _, name in timed} == {"copy", "floor", "entropic", "midpoint, CPU"}
    with pytest.raises(tmask.InvalidProblemError, match="no solver 'midpoint-gpu' here; there are: midpoint-cuda, "):
        gpu.main(tmp_path / "gpu.csv", "2:4", "64", "float32", 1, 1.0, "midpoint-gpu")


def test_calls_are_measured_in_turn_and_slow_ones_less_often():
    calls = {("masks", "fast"): lambda: {}, ("masks", "slow"): lambda: {}}
    rows = list(gpu.measure(calls, scripted(9.0, 0.1, 8.0, 4.0, 0.1), repeats=3, budget=5.0))
    assert [(row["solver"], row["repeat"]) for row in rows] == [
        *(("fast", -1), ("slow", -1), ("fast", 0), ("slow", 0)),
        *(("fast", 1), ("fast", 2)),
    ]
    assert [row["seconds"] for row in rows[:2]] == [9.0, 8.0]


def test_the_masks_that_are_timed_are_masks():
    weight = torch.randn(32, 32)
    seen = []
    for (kind, name), call in gpu_calls.calls_on(weight, Pattern(4, 8)).items():
        if kind == "masks":
            cells = {cell.cell_contents for cell in call.__closure__ if isinstance(cell.cell_contents, torch.Tensor)}
            (mask,) = [x for x in cells if x.dtype == torch.bool]
            mask.zero_()
            call()
            assert mask.sum(0).max() <= 16
            assert mask.sum() > 0.9 * 512
            seen.append(name)
    assert "midpoint-torch" in seen


def test_a_part_that_is_measured_again_replaces_its_rows_alone(rows):
    texts = [{name: str(value) for name, value in row.items()} for row in rows]
    again = [row for row in rows if row["m"] == 8]
    merged = gpu.replaced(texts, again)
    assert merged == [row for row in texts if row["m"] == "4"] + again
    assert "4:8" in report(merged)
    assert gpu.replaced([], again) == again
    elsewhere = [row | {"device": "X2"} for row in again]
    assert gpu.replaced(texts, elsewhere) == texts + elsewhere


def test_the_share_that_rounds_leave():
    torch.manual_seed(0)
    assert gpu_calls.share_left(torch.randn(64, 64), Pattern(4, 8)) < 0.2
    assert gpu_calls.share_left(torch.ones(64, 64), Pattern(4, 8)) == 1
    assert gpu_calls.share_left(torch.randn(64, 64), Pattern(2, 4)) < 0.1


def test_the_table_has_medians_spreads_and_multiples_of_the_floor():
    head = {"n": 2, "m": 4, "side": 1024, "dtype": "float32", "bytes": "", "left": "", "device": "X1"}
    floor = [head | {"call": "memory", "solver": "floor", "bytes": 5e6, "repeat": k, "seconds": 1e-5} for k in (0, 1)]
    times = (9.0, 2e-5, 3e-5, 4e-5)
    mine = [
        head | {"call": "masks", "solver": "mine", "left": 0.125, "repeat": k - 1, "seconds": s}
        for k, s in enumerate(times)
    ]
    text = unpadded(report([*floor, *mine]))
    assert "### 1024 x 1024, float32, X1" in text
    assert "| memory: `floor` | 0.01 ± 0 (500 GB/s) |" in text
    assert "| masks: `mine` | 0.03 ± 0.01 (3 x) |" in text
    assert "| first call: `mine` | 9e+03 |" in text
    assert "| blocks that rounds leave | 12.5 % |" in text


def test_the_table_of_real_rows_has_a_line_for_each_call(rows):
    text = report(rows)
    assert text.count("| solve: `") == len({row["solver"] for row in rows if row["call"] == "solve"})


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_a_device_nothing_is_measured(tmp_path, capsys):
    with pytest.raises(typer.Exit) as stop:
        gpu.main(tmp_path / "gpu.csv", "2:4", "64", "float32", 1, 1.0)
    gpu.main(tmp_path / "gpu.csv", "2:4", "64", "float32", 1, 1.0, dry_run=True)
    assert not list(tmp_path.iterdir())
    assert stop.value.exit_code == gpu.NO_DEVICE == 3
    assert "nothing was measured" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_it_runs_on_a_device(tmp_path, capsys):
    gpu.main(tmp_path / "gpu.csv", "2:4,4:8", "256", "float32", 2, 1.0)
    assert torch.cuda.get_device_name() in (tmp_path / "gpu.csv").read_text()
    assert "### 256 x 256, float32" in capsys.readouterr().out


def test_an_unknown_dtype_is_refused(tmp_path):
    with pytest.raises(tmask.InvalidProblemError, match="no dtype 'int8'"):
        gpu.main(tmp_path / "gpu.csv", "2:4", "64", "int8", 1, 1.0)

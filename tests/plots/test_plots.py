import csv
import sys
from dataclasses import asdict, replace

import pytest

import tmask
from tests.strategies import make_blocks
from tmask.comparison.environment import environment
from tmask.comparison.runs import COLUMNS, Run, compare
from tmask.plots.comparison import draw_plots
from tmask.plots.reading import read_case
from tmask.plots.series import arrange

matplotlib = pytest.importorskip("matplotlib")
pytest.importorskip("pandas")

NAMES = [f"{stem}.{suffix}" for stem in ("gap", "time", "gap_time") for suffix in ("png", "svg")]


@pytest.fixture(scope="module")
def runs():
    wanted = ("patterns", "bi-nm", "greedy-keep", "networkx-simplex")
    solvers = [name for name in wanted if name in tmask.available_solvers()]
    blocks = make_blocks("normal", 8, 4)
    return [
        run
        for pattern in ("2:4", "1:4")
        for run in compare(blocks, pattern, solvers, case="normal", repeats=2, seconds_per_solver=0.05)
    ]


def write(path, runs, without=()):
    rows = [asdict(run) | environment() | {"commit": "unread"} for run in runs]
    columns = [name for name in [*COLUMNS, *environment(), "commit"] if name not in without]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_three_figures_in_two_formats(runs, tmp_path):
    from matplotlib.image import imread

    out = tmp_path / "new" / "plots"
    paths = draw_plots(write(tmp_path / "runs.csv", runs), out)
    assert [path.name for path in paths] == NAMES
    assert sorted(path.name for path in out.iterdir()) == sorted(NAMES)
    for path in paths:
        assert path.stat().st_size > 1000
        if path.suffix == ".png":
            image = imread(path)
            assert min(image.shape[:2]) > 400
            assert image[..., :3].std() > 0.05
        else:
            assert "</svg>" in path.read_text()


def test_drawn_again_the_files_are_replaced_by_the_same(runs, tmp_path):
    path = write(tmp_path / "runs.csv", runs)
    before = [file.read_bytes() for file in draw_plots(path, tmp_path / "plots")]
    assert [file.read_bytes() for file in draw_plots(path, tmp_path / "plots")] == before


def texts(runs, tmp_path, monkeypatch):
    """All words of the gap figure."""
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    return draw_plots(write(tmp_path / "runs.csv", runs), tmp_path / "plots")[1].read_text()


def test_every_solver_pattern_and_unit_is_named(runs, tmp_path, monkeypatch):
    svg = texts(runs, tmp_path, monkeypatch)
    for word in ({run.solver for run in runs}, "2:4", "1:4", "(%)", "proven", "optimal", "normal"):
        for text in word if isinstance(word, set) else [word]:
            assert text in svg


def test_of_several_cases_normal_is_drawn_else_the_first(runs, tmp_path, monkeypatch):
    other = [replace(run, case="ties") for run in runs]
    assert "normal" in texts(other + runs, tmp_path, monkeypatch)
    svg = texts(other + [replace(run, case="zero") for run in runs], tmp_path, monkeypatch)
    assert "ties" in svg
    assert "zero" not in svg


def test_settings_are_named_where_they_tell_series_apart(runs, tmp_path, monkeypatch):
    twice = [replace(run, settings=f"sweeps={k} seed=0") for run in runs for k in (5, 9)]
    svg = texts(twice, tmp_path, monkeypatch)
    assert "(sweeps=5)" in svg
    assert "(sweeps=9)" in svg
    assert "seed=0" not in svg


def test_a_failed_pattern_is_named(runs, tmp_path, monkeypatch):
    bad = Run("normal", 2, 4, "broken", "", 0, 8, failure="SolverFailedError: status 7")
    assert "failed: broken on 2:4" in texts([*runs, bad], tmp_path, monkeypatch)


def test_a_gap_too_small_for_the_axis_is_told_in_words(runs, tmp_path, monkeypatch):
    svg = texts([*runs, replace(runs[0], solver="nearly", gap_mean=7e-10)], tmp_path, monkeypatch)
    assert "nearly on 2:4 (7e-08 %)" in svg


@pytest.mark.parametrize("gap", [0.0, 1e-12, 1.0, -0.01])
def test_one_run_of_any_gap_can_be_drawn(gap, runs, tmp_path):
    one = replace(runs[0], gap_mean=gap)
    assert len(draw_plots(write(tmp_path / "runs.csv", [one]), tmp_path / "plots")) == 6


def test_a_hundred_series_look_different(runs, tmp_path):
    many = [replace(runs[0], solver=f"solver-{i}") for i in range(100)]
    data = arrange(read_case(write(tmp_path / "runs.csv", many)))
    assert len({(series.colour, series.marker) for series in data.series}) == 100
    assert len({series.marker for series in data.series}) == 16


def test_files_that_hold_no_results(runs, tmp_path):
    def refused(path, match):
        with pytest.raises(tmask.FileFormatError, match=match):
            draw_plots(path, tmp_path / "plots")
        assert not (tmp_path / "plots").exists()

    refused(tmp_path / "missing.csv", "No such file")
    refused(tmp_path, "directory")
    path = tmp_path / "runs.csv"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe\x00")
    refused(path, "not a CSV.*nor any text")
    path.write_text("")
    refused(path, "not a CSV")
    path.write_text("hello\nworld\n")
    refused(path, "lacks the columns case, n, m")
    refused(write(path, runs, without=("seconds", "cpu")), "lacks the columns seconds, cpu$")
    refused(write(path, []), "no rows")
    path.write_text(write(path, runs[:1]).read_text().replace("normal,1,4", "normal,2,4").replace(",2,4,", ",two,4,"))
    refused(path, "not a CSV of results.*two")
    refused(write(path, [replace(runs[0], seconds=float("nan"))]), "repeat 0: .*seconds nan")
    refused(write(path, [replace(runs[0], failure="status 7")]), "every run .*status 7")


def test_a_folder_that_cannot_be_written(runs, tmp_path):
    path = write(tmp_path / "runs.csv", runs)
    with pytest.raises(tmask.OutputError):
        draw_plots(path, path)
    (tmp_path / "plots" / "time.png").mkdir(parents=True)
    with pytest.raises(tmask.OutputError, match=r"time\.png is a folder"):
        draw_plots(path, tmp_path / "plots")
    assert [file.name for file in (tmp_path / "plots").iterdir()] == ["time.png"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_nothing_behind(error, runs, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    save = Figure.savefig
    written = []

    def savefig(self, path, **settings):
        save(self, path, **settings)
        written.append(path)
        if len(written) == 4:
            raise error

    monkeypatch.setattr(Figure, "savefig", savefig)
    expected = tmask.OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left" if isinstance(error, OSError) else None):
        draw_plots(write(tmp_path / "runs.csv", runs), tmp_path / "plots")
    assert len(written) == 4
    assert list((tmp_path / "plots").iterdir()) == []


@pytest.mark.parametrize("library", ["pandas", "matplotlib"])
def test_a_missing_library_gives_the_pip_line(library, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(tmask.SolverUnavailableError, match=r'pip install "tmask\[plot\]"'):
        draw_plots(tmp_path / "runs.csv", tmp_path)

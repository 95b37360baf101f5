"""The benchmark of language models, on tiny ones of random weights."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")

from bench import llm, llm_models, llm_report
from bench.llm_runs import Job, Text, peak_memory
from tests.bench.pages import unpadded
from tests.nn.tiny_language import save_model, text
from tmask.errors import FileFormatError, InvalidProblemError, SolverUnavailableError

SMALL = {"samples": 4, "length": 16, "windows": 3, "threads": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and a text."""
    path = tmp_path_factory.mktemp("llm")
    save_model(path / "tiny")
    (path / "text.txt").write_text("\n".join(text(20, seed) for seed in range(20)))
    return path


@pytest.fixture
def here(monkeypatch):
    """Rows measured in this process: an interpreter for each is the slowest part of a tiny model."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(llm, "in_a_process", lambda function, *arguments: function(*arguments))


def bench(folder, out, **options):
    defaults = {"methods": "wanda refitted", "targets": "plain 2:4", "solvers": "auto", "goals": "dense", "seeds": "0"}
    others = {"part": "table", "depths": "2,3", "device": "cpu", "scratch": folder}
    llm.main(folder / "text.txt", folder / "tiny", out, **{**defaults, **others, **SMALL, **options})
    return rows_of(out)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_each_choice(folder, here, tmp_path):
    rows = bench(
        folder,
        tmp_path / "llm.csv",
        targets="plain 2:4,transposable 4:8",
        solvers="auto,greedy-keep",
        goals="dense,layer",
    )
    assert len({tuple(row[name] for name in llm.KEY) for row in rows}) == len(rows) == 3 * 2
    assert {row["solver"] for row in rows if row["target"] == "plain 2:4"} == {"auto"}
    for row in rows:
        assert float(row["ratio"]) == pytest.approx(float(row["perplexity"]) / float(row["dense_perplexity"]))
        assert float(row["density"]) == pytest.approx(float(row["zeros"]), abs=0.05)
        assert (row["matrices"], row["windows"], row["threads"]) == ("21", "3", "1")
        assert float(row["seconds"]) > 0
        # The system counts pages in batches: what was read later may be a little less.
        assert float(row["peak_mib"]) > 0.99 * float(row["before_mib"]) > 0
        assert row["transformers"]
    sets = {row["goal"]: float(row["states_mib"]) for row in rows}
    assert sets["dense"] == 2 * sets["layer"] == pytest.approx(2 * 4 * 16 * 16 * 4 / 2**20)
    assert not [path for path in folder.iterdir() if path.name not in ("tiny", "text.txt")]


def test_rows_that_are_there_are_kept(folder, here, tmp_path, monkeypatch):
    first = bench(folder, tmp_path / "llm.csv")
    measured = []
    real = llm.run
    monkeypatch.setattr(llm, "run", lambda *arguments: measured.append(arguments[0]) or real(*arguments))
    monkeypatch.setattr(llm, "dense_perplexity", None)  # known from the first run
    both = bench(folder, tmp_path / "llm.csv", seeds="0,1")
    assert both[0] == first[0]
    assert [row["seed"] for row in both] == ["0", "1"]
    assert [job.seed for job in measured] == [1]


def test_other_samples_make_other_rows(folder, here, tmp_path):
    bench(folder, tmp_path / "llm.csv")
    rows = bench(folder, tmp_path / "llm.csv", samples=8)
    assert [row["samples"] for row in rows] == ["4", "8"]


def test_cost_against_depth(folder, here, tmp_path):
    rows = bench(folder, tmp_path / "llm.csv", part="depth")
    assert [(row["blocks"], row["matrices"], row["ratio"]) for row in rows] == [("2", "14", ""), ("3", "21", "")]
    assert float(rows[1]["model_mib"]) > float(rows[0]["model_mib"])
    assert bench(folder, tmp_path / "llm.csv", part="depth") == rows


def test_a_process_of_its_own(folder, tmp_path):
    (row,) = bench(folder, tmp_path / "llm.csv", methods="magnitude")
    assert float(row["peak_mib"]) > 50


def test_peak_memory_sees_what_was_given_back():
    before = peak_memory("cpu")
    assert len(b"x" * (int(before + 200) << 20)) > 0
    assert peak_memory("cpu") > before + 100


def test_text_is_cut_at_the_end_of_a_line(tmp_path):
    content = "\n".join(f"line {k}" for k in range(100))
    (tmp_path / "text.txt").write_text(content)
    found = Text.cut(tmp_path / "text.txt", tmp_path, 0.6, 3)
    parts = found.calibration.read_text(), found.evaluation.read_text()
    assert "".join(parts) == content
    assert parts[0].endswith("\n")
    assert len(parts[0]) / len(content) == pytest.approx(0.6, abs=0.02)
    assert found.name.startswith("text.txt ")


def test_targets_are_patterns_or_shares():
    found = [Job("", target, "auto", "dense", 0, 1, 1).pattern for target in llm.TARGETS]
    assert found == [0.5, "2:4", "2:4", "4:8", "8:16", "16:32"]


def test_what_cannot_be_run(folder, tmp_path, monkeypatch):
    for options in ({"methods": "best"}, {"targets": "dense*"}, {"part": "width"}):
        with pytest.raises(InvalidProblemError):
            bench(folder, tmp_path / "llm.csv", **options)
    monkeypatch.setattr(llm_models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SolverUnavailableError, match=r"tmask\[llm\]"):
        llm_models.model_directory(None, tmp_path)


def test_only_what_was_found_is_read_of_the_package(tmp_path, monkeypatch):
    """The package is found, not imported, and its one file is what is loaded."""
    (tmp_path / "m.gguf").touch()
    monkeypatch.setattr(
        llm_models.importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    )
    asked = []

    class Refusing:
        @staticmethod
        def from_pretrained(**named):
            asked.append(named)
            raise KeyboardInterrupt

    monkeypatch.setattr("transformers.AutoModelForCausalLM", Refusing)
    with pytest.raises(KeyboardInterrupt):
        llm_models.model_directory(None, tmp_path / "model")
    assert (asked[0]["pretrained_model_name_or_path"], asked[0]["gguf_file"]) == (str(tmp_path), "m.gguf")


def row(**values):
    """A row of a table, as a CSV gives it back."""
    fixed = {
        "part": "table", "model": "tiny", "text": "text.txt 0", "method": "alps", "target": "transposable 2:4",
        "solver": "auto", "goal": "dense", "seed": "0", "samples": "4", "length": "16", "windows": "3", "blocks": "",
        "dense_perplexity": "20.0", "ratio": "2.0", "error_mean": "0.02", "density": "0.5", "seconds": "30",
        "peak_mib": "700", "before_mib": "300", "block_mib": "50", "states_mib": "100", "model_mib": "500",
        "commit": "abc", "cpu": "some", "threads": "2", "date": "2026-01-01T",
    }  # fmt: skip
    return fixed | values


def page(tmp_path, rows):
    with (tmp_path / "llm.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    llm_report.main(tmp_path / "llm.csv")
    return unpadded((tmp_path / "llm.md").read_text())


def test_the_page_holds_what_the_rows_say(tmp_path):
    rows = [
        row(),
        row(seed="1", ratio="3.0", seconds="50"),
        row(seed="2", ratio="2.2", seconds="32"),
        row(solver="greedy-keep", ratio="2.5", density="0.49"),
        row(method="wanda refitted", target="plain 2:4", goal="layer", ratio="1.5"),
        row(part="depth", blocks="30", ratio="", dense_perplexity="", seconds="60"),
        row(part="depth", blocks="6", ratio="", dense_perplexity="", seconds="12"),
    ]
    found = page(tmp_path, rows)
    assert "| method | plain 2:4 | transposable 2:4 |" in found
    assert "| alps | | 2.40 (2.00-3.00, 3) |" in found
    assert "| alps, greedy-keep | | 2.50 |" in found
    assert "| wanda refitted, goal layer | 1.50 | |" in found
    assert found.index("| wanda refitted") < found.index("| alps |")
    assert "dense perplexity 20.00" in found
    # (700 - 300 - 50 - 100) / 500
    assert "| transposable 2:4 | alps | 0.0200 | 50.0% | 32 | 700 | 0.50 |" in found
    assert "| alps | transposable 2:4 | 6 | 12 | 2.00 | 500 | 700 | 0.50 |" in found
    assert found.index("| 6 | 12 |") < found.index("| 30 | 60 |")
    assert "![Perplexity over dense](llm.svg)" in found
    assert (tmp_path / "llm.svg").stat().st_size > 1000


def test_training_has_a_section_where_it_has_rows(tmp_path):
    trained = {
        "model": "tiny", "method": "alps", "target": "transposable 2:4", "minutes": "10.0", "learning_rate": "3e-05",
        "batch": "4", "length": "16", "steps": "31", "perplexity_before": "66.666", "perplexity": "44.444",
        "threads": "2", "commit": "def",
    }  # fmt: skip
    assert "frozen masks" not in page(tmp_path, [row()])
    with (tmp_path / "llm_training.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(trained))
        writer.writeheader()
        writer.writerows([trained | {"method": "", "target": "dense"}, trained])
    found = page(tmp_path, [row()])
    assert "| none | dense |" in found
    assert "| alps | transposable 2:4 | 66.67 | 44.44 | 31 |" in found


def test_calibrations_stand_apart(tmp_path):
    found = page(tmp_path, [row(), row(samples="8", ratio="1.75")])
    assert "4 samples of 16" in found
    assert "8 samples of 16" in found
    assert (tmp_path / "llm-2.svg").exists()


def test_no_rows(tmp_path):
    with pytest.raises(FileFormatError, match="has no rows"):
        llm_report.main(tmp_path / "llm.csv")

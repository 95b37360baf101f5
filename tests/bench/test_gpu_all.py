"""The one command for a GPU: its runner with parts that fail, hang and print; its list of parts; without a GPU."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time

import pytest
import typer

pytest.importorskip("torch")

import torch

from bench import gpu_all, gpu_first, gpu_small, parts_run
from bench.parts_run import Part, run_parts, table
from tmask.errors import InvalidProblemError


def python(code):
    return (sys.executable, "-u", "-c", textwrap.dedent(code))


HANGS = python("""
    import subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print("child", child.pid)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        print("had this much")
        time.sleep(60)
""")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts_run, "_GRACE", 0.5)
        fake = [
            Part("fails", python("print('so far'); raise SystemExit(7)"), 20),
            Part("hangs", HANGS, 3),
            Part("absent", ("no-such-program",), 20),
            Part("missing", ("no-such-program",), 20, needs="no-such-program"),
            Part(
                "prints",
                python("import os, sys; print(os.environ['GREETING']); print('and this', file=sys.stderr)"),
                20,
            ),
        ]
        found = list(run_parts(fake, folder, {"GREETING": "hello"}, folder))
    return {outcome.name: outcome for outcome in found}


def test_each_part_runs_whatever_becomes_of_the_others(outcomes):
    words = {name: (outcome.words.partition(": [Errno")[0], outcome.good) for name, outcome in outcomes.items()}
    assert words == {
        "fails": ("failed, exit code 7", False),
        "hangs": ("cut off at 3 s", False),
        "absent": ("cannot start", False),
        "missing": ("left out: no no-such-program here", True),
        "prints": ("passed", True),
    }
    assert 2.5 <= outcomes["hangs"].seconds < 10


def test_each_part_has_a_log_of_all_that_it_said(outcomes):
    assert outcomes["fails"].log.read_text() == "so far\n"
    assert outcomes["prints"].log.read_text() == "hello\nand this\n"
    assert "had this much" in outcomes["hangs"].log.read_text()
    assert outcomes["missing"].log is None


def test_what_a_part_has_started_ends_with_it(outcomes):
    child = outcomes["hangs"].log.read_text().split()[1]
    for _ in range(50):
        state = subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True, check=False).stdout
        if not state.strip() or state.startswith("Z"):
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} is left: {state}")


def test_the_table_is_written_as_parts_end(outcomes):
    text = (outcomes["prints"].log.parent / "table.md").read_text()
    assert text == table(list(outcomes.values())) + "\n"
    assert [line.split("|")[2].partition(":")[0].strip() for line in text.splitlines()[2:]] == [
        "failed, exit code 7", "cut off at 3 s", "cannot start", "left out", "passed",
    ]  # fmt: skip


def test_what_no_signal_ends_holds_nothing_up(monkeypatch):
    """A process that waits in a driver goes on to wait."""
    signals = []

    class Stuck:
        pid = 12345

        def poll(self):
            return None

        def wait(self, timeout=None):
            assert timeout is not None, "waits for ever"
            raise subprocess.TimeoutExpired("stuck", timeout)

    monkeypatch.setattr(parts_run.os, "killpg", lambda pid, sent: signals.append((pid, sent)))
    parts_run._end(Stuck())
    assert signals == [(12345, signal.SIGINT), (12345, signal.SIGKILL)]


def test_the_first_call_says_what_goes_wrong(monkeypatch, capfd):
    monkeypatch.setattr(gpu_first, "_CODE", "raise SystemExit('the reason')")
    with pytest.raises(subprocess.CalledProcessError):
        list(gpu_first.measure("cuda", "4:8", "midpoint-cuda", 1))
    assert "the reason" in capfd.readouterr().err


@pytest.mark.parametrize(("xdist", "cores", "words"), [(True, 16, 2), (True, 2, 0), (False, 16, 0)])
def test_tests_of_masks_share_the_cores_where_pytest_can(monkeypatch, xdist, cores, words):
    monkeypatch.setattr(gpu_all.importlib.util, "find_spec", lambda name: xdist or None)
    monkeypatch.setattr(gpu_all.os, "cpu_count", lambda: cores)
    (part,) = [part for part in gpu_all.parts("X1", gpu_all.ROOT) if part.name == "tests-masks"]
    assert len([word for word in part.command if word in ("--numprocesses=12", "--dist=worksteal")]) == words


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_nothing_is_measured(tmp_path, capsys):
    with pytest.raises(typer.Exit) as stop:
        gpu_all.main(tmp_path / "out")
    assert stop.value.exit_code == gpu_all.NO_DEVICE == 3
    assert "nothing was measured" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [0, 5])
def test_it_ends_with_a_table_and_says_by_its_code_whether_all_went_well(tmp_path, monkeypatch, capsys, code):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA X1 (80 GB)")
    asked = []

    def fake(device, folder, dry):
        asked.append(device)
        write = f"open({str(folder / 'rows.csv')!r}, 'w'); import bench, tmask_solvers; raise SystemExit({code})"
        return [Part("writes", python(write), 30)]

    monkeypatch.setattr(gpu_all, "parts", fake)
    if code:
        with pytest.raises(typer.Exit) as stop:
            gpu_all.main(tmp_path / "out")
        assert stop.value.exit_code == 1
    else:
        gpu_all.main(tmp_path / "out")
    assert asked == ["NVIDIA X1 (80 GB)"]
    text = capsys.readouterr().out
    assert ("| writes | passed" in text) == (code == 0)
    assert text.endswith("CSVs: rows.csv\n")


def test_parts_can_be_named_and_those_on_demand_must_be(tmp_path):
    every, extra = gpu_all.parts("X1", tmp_path), gpu_all.parts_on_demand("X1", tmp_path)
    assert gpu_all.chosen(every, extra, "") == every
    named = gpu_all.chosen(every, extra, "bench-compiled,small,compile")
    assert [part.name for part in named] == ["compile", "small", "bench-compiled"]
    assert f"--out={tmp_path}/gpu-compiled-x1.csv" in named[-1].command
    with pytest.raises(InvalidProblemError, match="no part 'smal'; there are: compile, small, "):
        gpu_all.chosen(every, extra, "compile,smal")


def test_the_parts_fit_the_limit_and_their_files_exist(tmp_path):
    found = gpu_all.parts("NVIDIA X1 (80 GB)", tmp_path)
    assert gpu_all.START + sum(part.limit for part in found) <= gpu_all.LIMIT == 360
    assert [part.name for part in found][:3] == ["compile", "small", "bench-masks"]
    words = [word for part in found for word in part.command]
    files = [word for word in words if word.startswith("tests/")]
    assert len(files) >= 9
    assert "tests/solvers/test_cuda_judging.py" in files
    assert all((gpu_all.ROOT / file).exists() for file in files)
    outs = [word for word in words if word.startswith("--out=")]
    assert sorted(outs) == [
        f"--out={tmp_path}/gpu-first-nvidia-x1-80-gb.csv",
        f"--out={tmp_path}/gpu-nvidia-x1-80-gb.csv",
        f"--out={tmp_path}/gpu-others-nvidia-x1-80-gb.csv",
        f"--out={tmp_path}/gpu-training-nvidia-x1-80-gb.csv",
    ]


@pytest.mark.parametrize("part", [part for part in gpu_all.parts("X1", gpu_all.ROOT) if "pytest" in part.command])
def test_every_part_of_tests_has_tests(part):
    result = subprocess.run(
        (*part.command, "--collect-only", "-q"), cwd=gpu_all.ROOT, env=gpu_all.child_environment({"HOME": "/"}),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]


def test_nothing_is_imported_that_a_machine_with_a_gpu_may_lack():
    code = """
        import sys
        for name in ("ortools", "pulp", "networkx", "sklearn", "scipy", "pandas", "matplotlib", "tabulate"):
            sys.modules[name] = None
        import bench.gpu, bench.gpu_all, bench.gpu_compile, bench.gpu_first, bench.gpu_small, bench.gpu_training
    """
    subprocess.run(python(code), cwd=gpu_all.ROOT, env=gpu_all.child_environment({"HOME": "/"}), check=True)


def test_the_small_solves_are_right_and_told_when_they_are_not(monkeypatch, capsys):
    assert gpu_small.wrong_ones("cpu") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2:4: off by 0 of the optimum"
    assert lines[-1].startswith("4:8, 3 layers at once: off by ")
    monkeypatch.setattr(gpu_small, "differing", lambda *_: 1e-6)
    assert gpu_small.wrong_ones("cpu") == 4
    with pytest.raises(typer.Exit) as stop:
        gpu_small.main("cpu")
    assert stop.value.exit_code == 1


def test_a_dry_run_goes_through_every_part_and_measures_nothing(tmp_path, monkeypatch, capsys):
    original = gpu_all.parts

    def without_tests(device, folder, dry):
        assert dry
        # Collecting them is `test_every_part_of_tests_has_tests`; the largest benchmark has a test of its own.
        return [part for part in original(device, folder, dry) if "pytest" not in part.command]

    monkeypatch.setattr(gpu_all, "parts", without_tests)
    gpu_all.main(tmp_path / "out", dry_run=True)
    text = capsys.readouterr().out
    assert "a dry run: nothing was measured" in text
    assert text.count("passed") == 2 * 6, text
    assert "CSVs: none" in text
    first = (tmp_path / "out" / "first-call.log").read_text()
    assert first.startswith("kernels compiled: ")

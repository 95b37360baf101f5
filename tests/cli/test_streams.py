"""Streams that refuse what is written, and names that a terminal would obey: every command, by its own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.harness import leftovers, one_line, process_of, run, solve
from tmask.cli.app import app
from tmask.cli.output import show_table

# Imports once, then a child for each command and stream: how it ended, and what it said on stderr.
DRIVER = """
import json, os, sys, traceback
from tmask.cli import main

def child(args, stream):
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        said = b"".join(iter(lambda: os.read(read, 65536), b""))
        os.close(read)
        return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said.decode()]
    os.close(read)
    if stream == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    elif stream == "gone":
        nobody, pipe = os.pipe()
        os.close(nobody)
        os.dup2(pipe, 1)
    elif stream == "closed":
        os.close(1)
    else:
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), 1)
    os.dup2(write, 2)
    sys.argv = ["tmask", *args]
    code = 99
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    try:
        sys.stdout.flush()  # as the interpreter does at its exit
    except BaseException:
        code = 120
    os._exit(code)

print(json.dumps([child(*job) for job in json.load(sys.stdin)]))
"""


def ends(jobs, **environment):
    """Exit code and stderr of each command, given as arguments and stream."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps([([str(a) for a in args], str(stream)) for args, stream in jobs]),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def commands(weights):
    """One of each that ends well in a moment; of those that need a model, their help, which writes as all do."""
    solve(weights)
    csv = weights.parent / "rows.csv"
    run("compare", weights, "-p", "2:4", "--solvers", "patterns", "--repeats", 1, "--csv", csv)
    masks = weights.parent / "masks.safetensors"
    known = {
        "solve": ["-p", "2:4", "-o", masks, "--overwrite"],
        "check": [masks, weights],
        "compare": ["-p", "2:4", "--solvers", "patterns", "--repeats", 1],
        "solvers": [],
        "plot": [csv, "-o", weights.parent / "plots"],
        "doctor": ["--shape", "64x64"],
        "diversity": ["-p", "2:4"],
        "allocate": [weights, "-d", 0.5, "-p", "2:4"],
    }
    known["solve"].insert(0, weights)
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert known.keys() <= {*names}
    jobs = [[name, *known.get(name, ["--help"])] for name in names]
    json_too = [[*job, "--json"] for job in jobs if job[0] not in ("plot",) and job[1:] != ["--help"]]
    return [[], ["--help"], ["--version"], *jobs, *json_too]


@pytest.fixture
def jobs(weights):
    return commands(weights)


@pytest.mark.parametrize("stream", ["full", "closed"])
def test_what_cannot_be_written_is_one_error_and_exit_code_4(jobs, stream):
    for args, (code, said) in zip(jobs, ends([(args, stream) for args in jobs]), strict=True):
        assert code == 4, (args, code, said)
        assert "error: cannot write to standard output: " in said, (args, said)
        assert "Traceback" not in said


def test_a_reader_that_has_gone_ends_a_command_quietly_and_not_with_1(jobs):
    for args, (code, said) in zip(jobs, ends([(args, "gone") for args in jobs]), strict=True):
        assert (code, "Traceback" in said, "error" in said) == (128 + signal.SIGPIPE, False, False), (args, said)


def test_remarks_that_cannot_be_written_change_no_exit_code():
    for redirect in ("2>/dev/full", "2>&-"):
        for args, code in ((["solvers"], 0), (["check", "/no/file", "/no/weights"], 2), (["nothing"], 2)):
            command = f"{sys.executable} -m tmask.cli {' '.join(args)} >/dev/null {redirect}"
            assert subprocess.run(command, shell=True, check=False).returncode == code, command


EVIL = "a\x1b[31m\x9b2J\u202e\nerror: b.weight"


def torch_file(path, names):
    torch = pytest.importorskip("torch")
    torch.save({name: torch.randn(8, 8, generator=torch.manual_seed(0)) for name in names}, path)
    return path


def test_escapes_in_names_never_reach_a_terminal(tmp_path, weights):
    path = tmp_path / "evil.safetensors"
    bad = np.full((8, 8), np.nan, np.float32)
    save_file({EVIL: np.ones((8, 8), np.float32), "bias\x1b[1m": np.ones(8, np.float32)}, path)
    save_file({EVIL: bad}, tmp_path / "nan.safetensors")
    masks = tmp_path / "m.safetensors"
    results = [
        run("solve", path, "-p", "2:4", "-o", masks),
        run("check", masks, path),
        run("check", masks, weights, code=1),
        run("compare", path, "-p", "2:4", "--solvers", "patterns", "--repeats", 1),
        run("allocate", path, "-d", 0.5, "-p", "2:4"),
        run("diversity", path, "-p", "2:4"),
        run("doctor", path),
        run("solve", tmp_path / "nan.safetensors", "-p", "2:4", "-o", tmp_path / "n", code=2),
        run("solve", path, "-p", "2:4", "-o", tmp_path / "x", "--include", "\x1b[31mno", code=2),
        run("solve", path, path, "\x1b[31mno", "-p", "2:4", code=2),
        run("nothing\x1b[31m", code=2),
    ]
    for result in results:
        for text in (result.stdout, result.stderr):
            assert not {"\x1b", "\x9b", "\u202e"} & {*text}, text
            assert not any(line.startswith("error: b.weight") for line in text.splitlines())
    assert "a\\x1b[31m\\x9b2J\\u202e\\nerror: b.weight" in one_line(results[0].stdout).replace(" ", "").replace(
        "error:b", "error: b"
    )


def test_a_bar_shows_no_escapes(monkeypatch):
    from tmask.cli import console

    bar = console.progress_bar()
    task = bar.add_task(EVIL)
    assert bar.tasks[0].description == r"a\x1b[31m\x9b2J\u202e\nerror: b.weight"
    bar.update(task, description=f"{EVIL}2")
    assert bar.tasks[0].description == r"a\x1b[31m\x9b2J\u202e\nerror: b.weight2"


def test_an_ascii_terminal_gets_numbers_in_place_of_letters(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"schicht.größe": np.ones((8, 8), np.float32)}, path)
    masks = tmp_path / "é.safetensors"
    env = {"PYTHONIOENCODING": "ascii"}
    jobs = [
        (["solve", path, "-p", "2:4", "-o", masks], tmp_path / "out"),
        (["check", masks, path], tmp_path / "out2"),
        (["--help"], tmp_path / "out3"),
        (["solve", tmp_path / "ü.npz", "-p", "2:4", "-o", masks], tmp_path / "out4"),
    ]
    for code, said in ends(jobs, **env)[:3]:
        assert (code, "Traceback" in said) == (0, False), said
    shown = (tmp_path / "out").read_bytes().decode("ascii")
    assert "schicht.gr\\xf6\\xdfe" in shown
    widths = {len(line) for line in shown.splitlines() if line[:1] in "|+"}
    assert len(widths) == 1  # escapes are longer than what they stand for, and were counted


def solving(path):
    """The arguments of a solve, with masks beside the file."""
    return ["solve", path, "-p", "2:4", "-o", path.parent / "m.safetensors"]


def test_half_a_character_in_a_name_is_refused_before_any_solving(tmp_path, interrupt_after):
    path = torch_file(tmp_path / "model.pt", ["fine", "half\udc80"])
    solved = interrupt_after(None)
    for args in (
        solving(path),
        [*solving(path), "--include", "fine", "--masked-weights", tmp_path / "w.safetensors"],
        ["allocate", path, "-d", 0.5, "-p", "2:4", "--csv", tmp_path / "c"],
        ["diversity", path, "-p", "2:4", "--csv", tmp_path / "c"],
        ["compare", path, "-p", "2:4", "--solvers", "patterns", "--csv", tmp_path / "c"],
    ):
        assert "half\\udc80" in one_line(run(*args, code=2).stderr)
    assert solved == []
    assert leftovers(tmp_path) == ["model.pt"]
    assert "half\\udc80" in run("allocate", path, "-d", 0.5, "-p", "2:4").stdout
    assert "half\\udc80" in run("diversity", path, "-p", "2:4", "--json").stdout


def test_a_dtype_that_the_output_does_not_have_is_refused_before_any_solving(tmp_path, interrupt_after):
    path = tmp_path / "model.npz"
    np.savez(path, a=np.ones((8, 8)), b=np.ones(3, np.complex128))
    solved = interrupt_after(None)
    args = [*solving(path), "--masked-weights", tmp_path / "w.safetensors"]
    assert "complex128" in run(*args, code=2).stderr
    assert solved == []


def test_a_table_fits_with_its_escapes(capsys):
    show_table("t", [{"layer": EVIL * 30, "n": "1"}], texts=("layer",))
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_to_end_cleans_up_as_an_interrupt_does(weights, signal_number, code):
    stopped, stderr = process_of(weights, signal_number)
    assert stopped == code
    assert f"error: stopped by {signal_number.name}" in stderr
    assert "1 of 3 layers are finished and kept in" in one_line(stderr)
    assert leftovers(weights.parent) == ["m.safetensors.partial", "reached"]


def test_a_signal_while_a_file_is_written_leaves_none(tmp_path):
    code = (
        "import os, signal, sys\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup\n"
        "from tmask.cli.signals import stop_on_signals\n"
        "from tmask.files.atomic import atomic_path\nstop_on_signals()\n"
        "with atomic_path(sys.argv[1]) as path:\n    path.write_text('half')\n"
        "    os.kill(os.getpid(), int(sys.argv[2]))\n    import time; time.sleep(60)\n"
    )
    for number in (signal.SIGTERM, signal.SIGHUP):
        subprocess.run([sys.executable, "-c", code, tmp_path / "out", str(int(number))], stderr=-3, check=False)
        assert os.listdir(tmp_path) == []


def test_a_signal_that_was_ignored_stays_so():
    code = (
        "import os, signal\nfrom tmask.cli.signals import stop_on_signals\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\nstop_on_signals()\nos.kill(os.getpid(), signal.SIGHUP)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_second_signal_ends_it_at_once():
    code = (
        "import os, signal\nfrom tmask.cli.signals import stop_on_signals\nstop_on_signals()\n"
        "for _ in range(2):\n    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n    except KeyboardInterrupt:\n"
        "        pass\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGTERM


def test_the_library_leaves_signals_alone():
    code = (
        "import signal\nbefore = [signal.getsignal(s) for s in (1, 2, 13, 15)]\n"
        "import tmask, tmask.cli, tmask.files.atomic\n"
        "assert before == [signal.getsignal(s) for s in (1, 2, 13, 15)]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

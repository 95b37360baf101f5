"""A block that ends badly leaves no file behind and the old one as it was; one that ends well leaves the new one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tmask.errors import OutputError
from tmask.files.atomic import TEMPORARY, atomic_path, check_output

quick = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
ENDINGS = [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError]


def write(path, content, error=None, **options):
    with atomic_path(path, **options) as temporary:
        temporary.write_bytes(content)
        if error:
            raise error


def listing(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@given(st.binary(max_size=300), st.binary(max_size=300))
@quick
def test_the_last_whole_content_is_there_and_nothing_else(tmp_path, first, second):
    path = tmp_path / "out.safetensors"
    for content in (first, second):
        write(path, content)
        assert listing(tmp_path) == {"out.safetensors": content}


@pytest.mark.parametrize("error", ENDINGS)
@pytest.mark.parametrize("before", [{}, {"out.npz": b"before"}])
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_block_that_raises_changes_nothing(tmp_path, error, before, overwrite):
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error):
        write(tmp_path / "out.npz", b"half", error, overwrite=overwrite)
    assert listing(tmp_path) == before


def test_nothing_is_at_the_target_before_the_block_ends(tmp_path):
    with atomic_path(tmp_path / "out.npz") as temporary:
        temporary.write_bytes(b"half")
        assert os.listdir(tmp_path) == [temporary.name]
        assert temporary.name.startswith(TEMPORARY)
    assert os.listdir(tmp_path) == ["out.npz"]


def test_writers_at_the_same_time_do_not_meet(tmp_path):
    path = tmp_path / "out"
    with atomic_path(path) as first, atomic_path(path) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert listing(tmp_path) == {"out": b"first"}  # the outer block ends last


def test_a_block_that_removes_its_file_has_written_nothing(tmp_path):
    (tmp_path / "out").write_bytes(b"before")
    with pytest.raises(OutputError, match="cannot write"), atomic_path(tmp_path / "out") as temporary:
        temporary.unlink()
    assert listing(tmp_path) == {"out": b"before"}


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_is_never_replaced(tmp_path, overwrite):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        check_output(tmp_path / "out", overwrite)
    with pytest.raises(OutputError):
        write(tmp_path / "out", b"new", overwrite=overwrite)
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out").is_dir()


def test_a_missing_folder_is_not_made(tmp_path):
    with pytest.raises(OutputError, match="does not exist; create it first"):
        check_output(tmp_path / "no" / "out")
    with pytest.raises(OutputError, match="cannot write"):
        write(tmp_path / "no" / "out", b"new")
    assert os.listdir(tmp_path) == []


def test_what_exists_is_kept_unless_it_may_be_replaced(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"before")
    with pytest.raises(OutputError, match="exists already; use --overwrite"):
        check_output(path)
    with pytest.raises(OutputError, match="exists already"):
        write(path, b"new", overwrite=False)
    assert listing(tmp_path) == {"out": b"before"}
    assert check_output(str(path), overwrite=True) == path


def test_a_check_makes_no_file(tmp_path):
    assert check_output(tmp_path / "out") == tmp_path / "out"
    assert os.listdir(tmp_path) == []


def test_links_that_lead_nowhere(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="cannot write"):
        check_output(tmp_path / "loop", overwrite=True)
    (tmp_path / "dangling").symlink_to("made")
    write(check_output(tmp_path / "dangling"), b"new")
    assert (tmp_path / "made").read_bytes() == b"new"
    (tmp_path / "astray").symlink_to("no/made")
    with pytest.raises(OutputError, match="does not exist"):
        check_output(tmp_path / "astray")


def test_what_no_file_can_be_called(tmp_path):
    with pytest.raises(OutputError, match="null"):
        check_output(tmp_path / "a\0b")


KILLED = """
import os, sys
from tmask.files.atomic import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), 9)
"""


def kill_while_writing(path):
    done = subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    assert done.returncode == -signal.SIGKILL


def test_what_a_kill_left_is_removed_by_the_next_that_ends_well(tmp_path):
    kill_while_writing(tmp_path / "out.npz")
    kill_while_writing(tmp_path / "other.npz")
    assert len(os.listdir(tmp_path)) == 2
    with pytest.raises(ValueError, match="wrong"):
        write(tmp_path / "out.npz", b"half", ValueError("wrong"))
    assert len(os.listdir(tmp_path)) == 2  # a failed one takes nothing away
    write(tmp_path / "out.npz", b"new")
    found = sorted(os.listdir(tmp_path))
    assert len(found) == 2  # the other output's stays
    write(tmp_path / "other.npz", b"new")
    assert sorted(os.listdir(tmp_path)) == ["other.npz", "out.npz"]


def test_a_folder_that_a_kill_left_is_removed_too(tmp_path):
    code = "import os, sys, pathlib; from tmask.files.atomic import temporary_beside\n"
    code += "folder = temporary_beside(pathlib.Path(sys.argv[1])); folder.mkdir(); (folder / 'a').touch()"
    subprocess.run([sys.executable, "-c", code, tmp_path / "out"], check=True)
    assert len(os.listdir(tmp_path)) == 1
    write(tmp_path / "out", b"new")
    assert listing(tmp_path) == {"out": b"new"}


def test_the_temporary_file_of_a_living_process_is_spared(tmp_path):
    code = KILLED.replace("os.kill(os.getpid(), 9)", "print(temporary, flush=True); sys.stdin.read()")
    command = [sys.executable, "-c", code, tmp_path / "out"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as living:
        name = living.stdout.readline().strip()
        write(tmp_path / "out", b"new")
        assert os.path.exists(name)
        living.stdin.close()
    assert listing(tmp_path) == {"out": b"half"}


def test_that_of_another_machine_is_spared_until_it_is_old(tmp_path, monkeypatch):
    kill_while_writing(tmp_path / "out")
    (left,) = tmp_path.iterdir()
    monkeypatch.setattr("tmask.files.atomic.platform.node", lambda: "elsewhere")
    write(tmp_path / "out", b"new")
    assert left.exists()
    os.utime(left, (0, 0))
    write(tmp_path / "out", b"new")
    assert listing(tmp_path) == {"out": b"new"}

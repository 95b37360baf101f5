"""Outputs: refused before the work where they cannot be written, never half-written, never taken from their owner."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time

import pytest

import tmask
from tmask.files.atomic import atomic_path, check_output


def refused(path, *texts, overwrite=False):
    with pytest.raises(tmask.OutputError) as caught:
        check_output(path, overwrite)
    for text in (path.name, *texts):
        assert text in str(caught.value)


def test_paths_where_no_file_can_be(tmp_path):
    (tmp_path / "file").write_text("mine")
    refused(tmp_path / "file" / "m", "is a file, not a folder")
    refused(tmp_path / ("x" * 300), "cannot write")
    for overwrite in (False, True):
        refused(tmp_path, "is a folder", overwrite=overwrite)
        refused(tmp_path / "no" / "m", "does not exist; create it", overwrite=overwrite)


def test_devices_and_pipes_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "no regular file", overwrite=True)


@pytest.mark.parametrize("denied", [os.W_OK, os.X_OK])
def test_folders_without_permission(tmp_path, monkeypatch, denied):
    monkeypatch.setattr("tmask.files.atomic.os.access", lambda path, mode: not mode & denied)  # root may do anything
    refused(tmp_path / "m", "no permission")


def test_a_folder_that_vanishes_during_the_work(tmp_path):
    (tmp_path / "a").mkdir()
    path = check_output(tmp_path / "a" / "m")
    (tmp_path / "a").rmdir()
    with pytest.raises(tmask.OutputError, match="cannot write"), atomic_path(path):
        pass


def write(path, text, **options):
    with atomic_path(path, **options) as temporary:
        assert temporary.parent == path.resolve().parent
        assert temporary.suffix == path.suffix
        temporary.write_text(text)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_during_the_work_is_kept(tmp_path, monkeypatch, links):
    def no_links(*args):
        raise PermissionError(1, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "m.npz"
    write(path, "first", overwrite=False)
    with pytest.raises(tmask.OutputError, match="exists already"):
        write(path, "second", overwrite=False)
    assert path.read_text() == "first"
    write(path, "third", overwrite=True)
    assert path.read_text() == "third"
    assert os.listdir(tmp_path) == ["m.npz"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "m.csv").write_text("old")
    (tmp_path / "m.csv").symlink_to("disk/m.csv")
    refused(tmp_path / "m.csv", "exists already")
    check_output(tmp_path / "m.csv", overwrite=True)
    write(tmp_path / "m.csv", "new")
    assert (tmp_path / "m.csv").is_symlink()
    assert (tmp_path / "disk" / "m.csv").read_text() == "new"


def test_permissions_are_those_of_any_new_file_or_of_the_old_one(tmp_path):
    def mode(path):
        return stat.S_IMODE(path.stat().st_mode)

    (tmp_path / "plain").touch()
    write(tmp_path / "m", "new")
    assert mode(tmp_path / "m") == mode(tmp_path / "plain")
    (tmp_path / "m").chmod(0o600)
    write(tmp_path / "m", "newer")
    assert mode(tmp_path / "m") == 0o600


def test_long_names_leave_room_for_the_temporary_one(tmp_path):
    name = "x" * 250 + ".npz"
    write(tmp_path / name, "text")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("step", ["_sync", "_move"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_failure_at_any_step_leaves_nothing(tmp_path, monkeypatch, step, error):
    def fail(*args):
        raise error

    (tmp_path / "m").write_text("before")
    monkeypatch.setattr(f"tmask.files.atomic.{step}", fail)
    with pytest.raises((KeyboardInterrupt, tmask.OutputError)):
        write(tmp_path / "m", "after")
    assert os.listdir(tmp_path) == ["m"]
    assert (tmp_path / "m").read_text() == "before"


def test_a_refusal_inside_the_block_keeps_its_own_text(tmp_path):
    with pytest.raises(tmask.OutputError, match=r"^inner$"), atomic_path(tmp_path / "m"):
        raise tmask.OutputError("inner")
    assert os.listdir(tmp_path) == []


def test_a_real_interrupt_in_another_process(tmp_path):
    script = (
        # As Python does by itself, but for a process whose parent ignores it (a job in the background).
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys, time; from tmask.files.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "m"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    assert len(os.listdir(tmp_path)) == 1
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert time.monotonic() - start < 30
    assert os.listdir(tmp_path) == []

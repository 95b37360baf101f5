"""The commit of rows, in a checkout and on machines that have none, or no git."""

import re
from types import SimpleNamespace

import pytest

from bench import rows


def fake_git(monkeypatch, head, differs=False):
    def run(command, **options):
        return SimpleNamespace(stdout=head, returncode=int(differs))

    monkeypatch.setattr(rows.subprocess, "run", run)


def test_a_checkout_tells_its_commit():
    assert re.fullmatch(r"([0-9a-f]{7,}\+?)?", rows.commit())


@pytest.mark.parametrize(("differs", "expected"), [(False, "abc1234"), (True, "abc1234+")])
def test_files_that_differ_are_told(monkeypatch, differs, expected):
    fake_git(monkeypatch, "abc1234\n", differs)
    monkeypatch.setenv("BENCH_COMMIT", "other")
    assert rows.commit() == expected


@pytest.mark.parametrize("without", ["checkout", "git"])
def test_elsewhere_the_environment_may_tell(monkeypatch, tmp_path, without):
    if without == "git":
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        fake_git(monkeypatch, "")
    monkeypatch.delenv("BENCH_COMMIT", raising=False)
    assert rows.commit() == ""
    monkeypatch.setenv("BENCH_COMMIT", "abc1234")
    assert rows.commit() == "abc1234"

"""The cache of compiled kernels is a help and no more: without it, or with a damaged one, everything works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

KERNEL = """
import logging, sys
logging.basicConfig(format="%(levelname)s %(message)s")
from tmask_solvers.cpu_kernels.compiling import kernel

@kernel
def twice(x):
    return 2 * x

@kernel
def thrice(x):
    return 3 * x

assert (twice(21), thrice(2)) == (42, 6)
print(sum(twice.stats.cache_hits.values()))
"""
DAMAGE = {
    "empty": lambda data: b"",
    "short": lambda data: data[: len(data) // 2],
    "one bit": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "another pickle": lambda data: b"\x80\x04N.",
}


def run_kernels(script: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Two kernels in a process of their own; it prints how many signatures of the first came from the cache."""
    env = {**os.environ, "NUMBA_CACHE_DIR": str(folder), **environment}
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, env=env, check=False)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A script, and the folder of its cache after one run."""
    root = tmp_path_factory.mktemp("kernels")
    script, folder = root / "kernels.py", root / "cache"
    script.write_text(KERNEL)
    assert run_kernels(script, folder).stdout == "0\n"
    return script, folder


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_a_damaged_file_is_replaced(damage, kind, filled, tmp_path):
    script, folder = filled[0], shutil.copytree(filled[1], tmp_path / "cache")
    files = list(folder.rglob(f"*.{kind}"))
    assert len(files) == 2
    for file in files:
        file.write_bytes(DAMAGE[damage](file.read_bytes()))
    for expected in ("0\n", "1\n"):
        result = run_kernels(script, folder)
        assert (result.stdout, result.stderr) == (expected, "")


def test_a_folder_that_cannot_be_written_is_named_once(tmp_path):
    """Neither NUMBA_CACHE_DIR, nor the folder of the sources, nor a home: a file stands in the way of each."""
    (tmp_path / "file").touch()
    (tmp_path / "__pycache__").touch()
    blocked = tmp_path / "file" / "cache"
    script = tmp_path / "kernels.py"
    script.write_text(KERNEL)
    result = run_kernels(script, blocked, HOME=str(tmp_path / "file"), XDG_CACHE_HOME="/dev/null/no")
    assert result.stdout == "0\n"
    assert result.stderr.startswith(f"WARNING the cache of compiled kernels in {blocked}/tmask-kernels-")
    assert result.stderr.count("\n") == 1


def test_a_full_disk_is_said_once(tmp_path):
    """As it would be: writing fails, what is there can be read."""
    script = tmp_path / "kernels.py"
    full = (
        "import numba.core.caching as c, contextlib\n"
        "@contextlib.contextmanager\n"
        "def full(self, path):\n"
        "    raise OSError(28, 'No space left on device')\n"
        "    yield\n"
        "c.IndexDataCacheFile._open_for_write = full\n"
    )
    script.write_text(full + KERNEL)
    result = run_kernels(script, tmp_path / "cache")
    assert result.stderr.count("\n") == 1
    assert "No space left on device" in result.stderr
    assert str(tmp_path / "cache") in result.stderr

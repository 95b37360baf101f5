"""Where compiled kernels lie on disk, known without numba, whose import alone takes a third of a second."""

from __future__ import annotations

import hashlib
import os
import sys
from functools import cache
from pathlib import Path

from tmask.showing.notes import tell


@cache
def cache_folder(root: str) -> Path:
    """The folder for the sources as they are now: below a root, or beside the package where that is ""."""
    package = Path(__file__).parents[1]  # kernels call functions of other folders
    return (Path(root) if root else package / "__pycache__") / f"tmask-kernels-{digest_of_sources(package)}"


def digest_of_sources(package: Path) -> str:
    """16 hexadecimal digits that change with any source below a folder."""
    digest = hashlib.sha256()
    for source in sorted(package.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


@cache
def tell_if_empty() -> bool:
    """Whether it said, before numba is loaded, that kernels will be compiled, since none have been on this machine.

    Asked once in a process. Of a further pattern `announce` tells later, once numba knows whether it has it.
    """
    if "numba" in sys.modules:
        return False
    folder = cache_folder(os.environ.get("NUMBA_CACHE_DIR", ""))
    # Where the package cannot be written numba takes another folder, of which nothing is known here.
    empty = next(folder.rglob("*.nbi"), None) is None and os.access(_nearest(folder), os.W_OK)
    if empty:
        tell("kernels are compiled on first use, which takes some seconds, once on this machine")
    return empty


def _nearest(folder: Path) -> Path:
    """The folder itself, or the one that it would be made in."""
    return next(one for one in (folder, *folder.parents) if one.exists())

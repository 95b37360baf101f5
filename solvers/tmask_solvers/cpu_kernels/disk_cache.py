# mypy: disable-error-code="no-untyped-call"
# (numba has no types inside)
"""numba's disk cache as a help and no more: whatever is wrong with it, kernels are compiled.

numba takes its cache for granted. A folder that cannot be written and a disk that is full are exceptions in the middle
of a solve, and a file with one wrong byte is one too, or ends the process, since machine code is run as it lies there.
So each file carries a digest of what is in it; a file that does not fit its own is passed over, and written anew.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache

log = logging.getLogger("tmask")

_DIGEST_BYTES = 32
_said: set[str] = set()


class CheckedFiles(IndexDataCacheFile):
    """The files of one kernel: an index, and one for each signature that it was compiled for."""

    def _load_index(self) -> dict[Any, str]:
        try:
            version, stamp, overloads = _read(self._index_path)
        except (OSError, _DamagedError):
            return {}
        return overloads if (version, stamp) == (self._version, self._source_stamp) else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._write(self._index_path, (self._version, self._source_stamp, overloads))

    def _load_data(self, name: str) -> Any:
        """numba takes an OSError for a file that is not there, and compiles: `_DamagedError` is one."""
        return _read(self._data_path(name))

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), data)

    def _write(self, path: str, value: Any) -> None:
        data = self._dump(value)
        with self._open_for_write(path) as file:
            file.write(hashlib.sha256(data).digest() + data)


class ForgivingCache(FunctionCache):
    """What is cached of one kernel; what cannot be read or written is as if there were no cache.

    Args:
        sources: digest of all sources, which is part of the key: the folder is named after it too, but where that
            cannot be written numba takes one that is not.
    """

    def __init__(self, function: Callable[..., Any], sources: str) -> None:
        super().__init__(function)
        self._sources = sources
        own = self._cache_file
        self._cache_file = CheckedFiles(self._cache_path, self._impl.filename_base, own._source_stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:
            say_once(self._cache_path, error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:
            say_once(self._cache_path, error)

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), self._sources)


def make_cache(function: Callable[..., Any], folder: Path, sources: str) -> Any:
    """The disk cache of a kernel; none, and a warning, if there is no folder that can be written."""
    try:
        return ForgivingCache(function, sources)
    except Exception as error:  # numba raises RuntimeError, and what the file system does of odd names
        say_once(str(folder), error)
        return NullCache()


def say_once(folder: str, error: Exception) -> None:
    """Warn, the first time for a folder, that it does not serve as a cache."""
    if folder not in _said:
        _said.add(folder)
        log.warning(
            "the cache of compiled kernels in %s cannot be used (%s): each process compiles them again, some seconds "
            "each; to end that, set NUMBA_CACHE_DIR to a folder that can be written",
            folder,
            str(error) or type(error).__name__,
        )


class _DamagedError(OSError):
    """A file whose digest does not fit."""


def _read(path: str | os.PathLike[str]) -> Any:
    content = Path(path).read_bytes()
    digest, data = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        raise _DamagedError(f"{path} is damaged")
    return pickle.loads(data)

"""Write whole files or none: to a temporary file beside the target, then rename. Names of temporary folders too."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tmask.errors import OutputError

# Temporary files start with this, and go on with the file that they are to become, the machine and the process that
# write them: a killed process (no clean-up is possible then) leaves one behind, which the next one can tell.
TEMPORARY = ".tmask-"
_NAME = re.compile(rf"{re.escape(TEMPORARY)}([0-9a-f]{{16}})-([0-9a-f]{{16}})-(\d+)-[0-9a-z_]+(\.\w+)?")
_ABANDONED = 24 * 3600  # seconds without a byte written, after which another machine's is taken for left behind


def check_output(path: str | Path, overwrite: bool = False) -> Path:
    """The path, if a file can be written there; call it before long work, not after.

    Raises:
        OutputError: it exists and must not be overwritten, is a folder or a device, or its folder is missing or
            not writable.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    except ValueError as error:  # no path at all, such as one with a null character
        raise OutputError(f"cannot write {path}: {error}") from error
    if mode is not None:
        if stat.S_ISDIR(mode):
            raise OutputError(f"{path} is a folder; give the name of a file in it")
        if not stat.S_ISREG(mode):  # renaming onto /dev/null would remove the device
            raise OutputError(f"{path} is no regular file; give the name of a file to write")
        if not overwrite:
            raise OutputError(_exists(path))
    # The file is made beside what a link leads to, so that folder is the one that must be writable.
    folder = _target(path).parent
    if not folder.exists():
        raise OutputError(f"cannot write {path}: the folder {folder} does not exist; create it first")
    if not folder.is_dir():
        raise OutputError(f"cannot write {path}: {folder} is a file, not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: no permission to write in {folder}")
    return path


@contextmanager
def atomic_path(path: str | Path, overwrite: bool = True) -> Iterator[Path]:
    """A temporary path to write to; it becomes `path` if the block ends well, and is removed if it does not.

    An interrupt counts as not ending well. The file's suffix is kept, since some libraries look at it.
    A link is followed, and what it points to is replaced.

    Args:
        overwrite: replace a file that is there by then; a file that appeared during long work is kept otherwise.
    Raises:
        OutputError: the folder cannot be written, or a file is there that must stay.
    """
    path = Path(path)
    target = _target(path)
    temporary = temporary_beside(target)
    try:
        # O_EXCL: never another process's file. Not `tempfile`'s, which others than the owner may not read.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        # Contents before the name: else a crash could leave the name with an empty file behind it.
        _sync(temporary)
        _move(temporary, target, overwrite)
        with contextlib.suppress(OSError):  # not every file system can; the file itself is whole either way
            _sync(target.parent)
        remove_leftovers(target)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        # Still there after a failure, and after a link; gone after a rename.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_beside(target: Path) -> Path:
    """A name that nothing has yet, for what is to become the target."""
    return target.with_name(f"{temporary_prefix(target)}{secrets.token_hex(8)}{target.suffix}")


def temporary_prefix(target: Path) -> str:
    """What the names of this process's temporary files and folders for a target begin with."""
    return f"{_beginning(target)}{os.getpid()}-"


def remove_leftovers(target: Path) -> None:
    """Remove temporary files and folders of this target whose process was killed; those of living processes stay."""
    own = _NAME.fullmatch(f"{_beginning(target)}0-0")
    assert own is not None
    with contextlib.suppress(OSError):  # the target is whole: a file that cannot be removed spoils nothing
        for path in target.parent.glob(f"{TEMPORARY}{own[1]}-*"):
            found = _NAME.fullmatch(path.name)
            if found is not None and _is_left(path, int(found[3]), here=found[2] == own[2]):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _is_left(path: Path, process: int, here: bool) -> bool:
    # Nobody can tell from here whether its process lives; on Windows, asking so would end it.
    if not here or os.name != "posix":
        return time.time() - path.stat().st_mtime > _ABANDONED
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        return False
    return False


def _beginning(target: Path) -> str:
    """Of the names of temporary files that this machine makes for a target."""
    machine = platform.node()
    with contextlib.suppress(OSError):  # containers may share a name, and count processes each for itself
        machine += f" {os.stat('/proc/self/ns/pid').st_ino}"
    return TEMPORARY + "".join(
        f"{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:16]}-" for text in (target.name, machine)
    )


def _move(temporary: Path, target: Path, overwrite: bool) -> None:
    if overwrite:
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(target, temporary)  # a file that was private stays so
        temporary.replace(target)
        return
    try:
        os.link(temporary, target)  # unlike a rename, it fails where a file exists
    except FileExistsError as error:
        raise OutputError(_exists(target)) from error
    except OSError as error:  # a file system without links: look, then rename
        if target.exists():
            raise OutputError(_exists(target)) from error
        temporary.replace(target)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _target(path: Path) -> Path:
    """What is written: the path, or where a link leads."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _exists(path: Path) -> str:
    return f"{path} exists already; use --overwrite (overwrite=True) to replace it"

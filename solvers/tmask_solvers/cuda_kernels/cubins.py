"""Compiled kernels on disk, as a help and no more: whatever is wrong with a file, the kernel is compiled again.

A file is named after all that its machine code depends on: the sources of this package, the versions of the compilers,
the GPU's compute capability, and which kernel for which arguments. It carries a digest of its content, so one that is
cut short or damaged is passed over, and it comes to its place in one step, so processes may share a folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

log = logging.getLogger("tmask")

_DIGEST_BYTES = 32
_COMPILERS = (
    "numba-cuda",
    "numba",
    "llvmlite",
    "cuda-core",
    "cuda-bindings",
    "nvidia-nvvm",
    "nvidia-cuda-nvcc",
    "nvidia-nvjitlink",
    "nvidia-cuda-nvcc-cu12",
    "nvidia-nvjitlink-cu12",
)


@dataclass(frozen=True, slots=True)
class Cubin:
    """Machine code of one kernel: the name of its entry, how many numbers of 64 bits it takes, and the code."""

    entry: str
    numbers: int
    code: bytes

    def to_bytes(self) -> bytes:
        head = json.dumps({"entry": self.entry, "numbers": self.numbers}).encode()
        content = len(head).to_bytes(4, "little") + head + self.code
        return hashlib.sha256(content).digest() + content

    @classmethod
    def of_bytes(cls, data: bytes) -> Cubin | None:
        """What was written; None if it is damaged."""
        digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            return None
        length = int.from_bytes(content[:4], "little")
        return cls(**json.loads(content[4 : 4 + length]), code=content[4 + length :])


@dataclass(frozen=True, slots=True)
class CubinKey:
    """Which kernel, for arguments of which types, on which GPUs."""

    kernel: str
    arguments: Sequence[str]
    capability: tuple[int, int]

    def file_name(self) -> str:
        text = json.dumps([asdict(self), _surroundings()])
        return f"{self.kernel}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.cubin"


def read(key: CubinKey) -> Cubin | None:
    """What a process before has left, or None."""
    for folder in _folders():
        try:
            if found := Cubin.of_bytes((folder / key.file_name()).read_bytes()):
                return found
        except OSError:  # mostly: not there yet
            continue
    return None


def write(key: CubinKey, cubin: Cubin) -> None:
    """Leave it for processes to come; where that fails, say so once."""
    problem: OSError | None = None
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _put(folder / key.file_name(), cubin.to_bytes())
        except OSError as error:
            problem = problem or error
        else:
            return
    _say_once(str(problem))


def _put(path: Path, data: bytes) -> None:
    # Beside its place, under a name of its own: nobody reads half a file, and the last of several writers wins.
    descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _folders() -> tuple[Path, ...]:
    """Where files may lie: numba's own folder if the user has set one, else beside the sources, then the user's."""
    if root := os.environ.get("NUMBA_CACHE_DIR"):
        return (Path(root) / "tmask-cubins",)
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tmask"
    return Path(__file__).parents[1] / "__pycache__" / "tmask-cubins", own / "cubins"


@cache
def _surroundings() -> list[str]:
    """Digest of the sources, and the versions of all that compiles them."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]  # kernels are made of functions of other folders
    for source in sorted(package.rglob("*.py")):
        digest.update(source.read_bytes())
    return [digest.hexdigest(), *(_version(name) for name in _COMPILERS)]


def _version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


@cache
def _say_once(problem: str) -> None:
    log.warning(
        "compiled CUDA kernels cannot be kept on disk (%s): each process compiles them again, some seconds each; to "
        "end that, set NUMBA_CACHE_DIR to a folder that can be written",
        problem,
    )

"""Resume: finished layers of a long run, kept one a file beside the output until it is written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

from tmask.errors import FileFormatError, OutputError
from tmask.files.atomic import TEMPORARY
from tmask.files.masks import MaskRecord, read_masks, write_masks

_SEAL = " contents="

# What `_path` names, and what a killed process leaves of it.
_OWN = re.compile(rf"([0-9a-f]{{32}}|{re.escape(TEMPORARY)}[0-9a-f-]+)\.safetensors")


class PartialStore:
    """The folder OUT.partial: each finished layer is in it as a mask file of its own, written whole or not at all."""

    def __init__(self, output: str | Path) -> None:
        output = Path(output)
        self.folder = output.with_name(output.name + ".partial")
        self.damaged: list[str] = []  # names of layers that were there, and not as they had been written

    def get(self, name: str, job: str, weights_sha256: str) -> MaskRecord | None:
        """The finished layer, if it was made by the same job from the same weights; else None."""
        path = self._path(name)
        if not path.exists():
            return None
        try:
            record = _opened(read_masks(path)[name])
        except (FileFormatError, KeyError):
            self.damaged.append(name)
            return None
        return record if (record.job, record.weights_sha256) == (job, weights_sha256) else None

    def put(self, record: MaskRecord) -> None:
        """Keep a finished layer.

        Raises:
            OutputError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write {self.folder}: {error.strerror}") from error
        write_masks(self._path(record.name), [_sealed(record)], overwrite=True)

    def discard(self) -> None:
        """Remove the folder when the output is written; files that are not the store's stay, and keep the folder."""
        with contextlib.suppress(OSError):  # the output is whole: a file that cannot be removed spoils nothing
            for path in self.folder.iterdir():
                if _OWN.fullmatch(path.name):
                    path.unlink()
            self.folder.rmdir()

    def _path(self, name: str) -> Path:
        """Parameter names may hold anything, so files are named by hash."""
        # Half a character may stand in a torch file's names; UTF-8 alone refuses it.
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
        return self.folder / f"{digest[:32]}.safetensors"


def _sealed(record: MaskRecord) -> MaskRecord:
    """With a digest of all that it says behind its job: a mask with a flipped bit would be as good a mask file."""
    return replace(record, job=f"{record.job}{_SEAL}{_digest(record)}")


def _opened(record: MaskRecord) -> MaskRecord:
    """Without the digest, which must fit.

    Raises:
        FileFormatError: it does not, or there is none.
    """
    job, _, digest = record.job.rpartition(_SEAL)
    record = replace(record, job=job)
    if _digest(record) != digest:
        raise FileFormatError(f"the mask of {record.name!r} is not the one that was written")
    return record


def _digest(record: MaskRecord) -> str:
    known = json.dumps([record.name, record.metadata()], sort_keys=True)
    return hashlib.sha256(known.encode() + record.packed.bits.tobytes()).hexdigest()

"""A Hugging Face directory as output: shards under their own names, the files beside them, the index last."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tmask.errors import OutputError
from tmask.files.atomic import atomic_path, remove_leftovers, temporary_beside
from tmask.files.outputs.formats import Listing, Load, write_weights
from tmask.files.safetensors_files import INDEX, each_once
from tmask.files.weight_file import WeightFile

# What belongs to a model beside its weights: config, tokenizer, templates, code.
_BESIDE = (".json", ".txt", ".model", ".py", ".jinja", ".tiktoken", ".md")


def check_folder(folder: Path, source: WeightFile, overwrite: bool) -> None:
    """Return if a model can be written to a folder.

    Raises:
        OutputError: it is the source's own, no folder, or holds something and must stay.
    """
    check_place(folder, source)
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise OutputError(f"{folder} is not empty; use --overwrite (overwrite=True) to replace what is in it")


def check_place(folder: Path, source: WeightFile) -> None:
    """Return if there can be a folder, with whatever is in it.

    Raises:
        OutputError: it is the source's own, or no folder.
    """
    if folder.resolve() == source.path.parent.resolve():
        raise OutputError(f"{folder} is the folder that is read; give the output another name")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; give the name of a folder")
    if not folder.absolute().parent.is_dir():
        raise OutputError(f"cannot write {folder}: the folder {folder.parent} does not exist; create it first")


def write_folder(folder: Path, source: WeightFile, listing: Listing, load: Load, overwrite: bool) -> None:
    """Write the tensors of a model's files, and copy the rest of it.

    A folder that is not there appears whole or not at all; in one that is there, files are replaced one by one.

    Raises:
        OutputError: as `check_folder`, or it cannot be written.
    """
    check_folder(folder, source, overwrite)
    with _whole(folder) as target:
        shards = _shards(source)
        for shard, names in shards.items():
            with atomic_path(target / shard) as temporary:
                write_weights(temporary, ".safetensors", {name: listing[name] for name in names}, load)
        copy_beside(source, target)
        if source.path.name.endswith(INDEX):
            # Last: without it no reader takes the folder for a model.
            with atomic_path(target / source.path.name) as temporary:
                shutil.copyfile(source.path, temporary)


def copy_beside(source: WeightFile, target: Path) -> None:
    """Copy what belongs to a model beside its weights."""
    for file in _beside(source.path.parent):
        with atomic_path(target / file.name) as temporary:
            shutil.copyfile(file, temporary)


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to write to, which then has the name; an existing one that is not empty as it is."""
    target = folder.absolute()
    if folder.is_dir() and any(folder.iterdir()):
        yield folder
        remove_leftovers(target)
        return
    temporary = temporary_beside(target)
    try:
        temporary.mkdir()
        yield temporary
        temporary.rename(target)  # onto an empty folder, too
        remove_leftovers(target)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary)


def _shards(source: WeightFile) -> dict[str, list[str]]:
    """Names of tensors by file."""
    if source.path.name.endswith(INDEX):
        weight_map = json.loads(source.path.read_text(encoding="utf-8"), object_pairs_hook=each_once)["weight_map"]
        shards: dict[str, list[str]] = {}
        for name, shard in weight_map.items():
            shards.setdefault(str(shard), []).append(name)
        return shards
    one = source.path.name if source.path.suffix == ".safetensors" and _is_model(source.path.parent) else ""
    return {one or "model.safetensors": list(source.names)}


def _beside(folder: Path) -> list[Path]:
    """The files of a model that are no weights."""
    if not _is_model(folder):
        return []  # who knows what else lies there
    found = (path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix in _BESIDE)
    return [path for path in found if not path.name.endswith(".index.json")]


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file()

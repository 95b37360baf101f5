"""Shards of masks, put together by an index: what is missing or foreign is named, and nothing is copied."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from tmask.errors import FileFormatError
from tmask.files.atomic import atomic_path
from tmask.files.masks import MaskRecord, read_masks
from tmask.sharding.place import Place
from tmask.sharding.plan import fingerprint

_MARK = " shards="


def shard_path(output: Path, place: Place) -> Path:
    """As Hugging Face names them: model-00002-of-00008.safetensors."""
    return output.with_name(f"{output.stem}-{place.index:05}-of-{place.count:05}{output.suffix}")


def index_path(output: Path) -> Path:
    """Of the index of all shards."""
    return output.with_name(f"{output.name}.index.json")


def mark(place: Place, plan: str) -> str:
    """What the job of a shard's masks ends with, by which shards of one run are known."""
    return f"{_MARK}{place.count} plan={plan}"


def find_shards(output: Path) -> dict[int, Path]:
    """The shards of an output that is not there yet, by number.

    Raises:
        FileFormatError: none, some missing, or shards of another count beside them.
    """
    name = re.compile(rf"{re.escape(output.stem)}-(\d{{5}})-of-(\d{{5}}){re.escape(output.suffix)}")
    found: dict[int, dict[int, Path]] = {}
    for path in sorted(output.parent.iterdir()) if output.parent.is_dir() else []:
        if known := name.fullmatch(path.name):
            found.setdefault(int(known[2]), {})[int(known[1])] = path
    if not found:
        raise FileFormatError(f"there are no shards of {output}; write them with `tmask solve --shard i/N`")
    if len(found) > 1:
        listed = "; ".join(f"of {n}: {', '.join(p.name for p in paths.values())}" for n, paths in found.items())
        raise FileFormatError(f"shards of several runs, of which all but one are foreign ({listed}); remove those")
    ((count, paths),) = found.items()
    places = [Place(index, count) for index in range(1, count + 1)]
    if missing := [place for place in places if place.index not in paths]:
        names = ", ".join(shard_path(output, place).name for place in missing)
        raise FileFormatError(
            f"missing: {names}; run `tmask solve` again with --shard "
            + ", ".join(f"{place.index}/{count}" for place in missing)
        )
    return dict(sorted(paths.items()))


def read_shards(paths: Mapping[int, Path]) -> dict[Path, dict[str, MaskRecord]]:
    """The masks of each shard.

    Raises:
        FileFormatError: a shard of another run, with other settings or layers.
    """
    shards = {path: read_masks(path) for path in paths.values()}
    by_job: dict[str, list[str]] = {}
    seen: dict[str, Path] = {}
    for path, records in shards.items():
        for name, record in records.items():
            if name in seen:
                raise FileFormatError(f"layer {name!r} is in {seen[name].name} and in {path.name}; one is foreign")
            seen[name] = path
            by_job.setdefault(_common(record.job), []).append(path.name)
    if len(by_job) > 1:
        listed = "; ".join(f"{job!r}: {', '.join(dict.fromkeys(names))}" for job, names in by_job.items())
        raise FileFormatError(f"shards of several jobs, of which all but one are foreign: {listed}")
    (job,) = by_job or [""]
    shapes = ((name, record.packed.shape) for records in shards.values() for name, record in records.items())
    if not job.endswith(f" plan={fingerprint(shapes, len(shards))}"):
        raise FileFormatError("the shards do not hold the layers of their plan; some are foreign, solve them again")
    return shards


def _common(job: str) -> str:
    """The job without what belongs to one layer."""
    return re.sub(r" groups=\d+| layout=\w+", "", job)


def write_index(output: Path, shards: Mapping[Path, Mapping[str, MaskRecord]], overwrite: bool) -> Path:
    """Write the index, last of all: where it is, the shards are whole, and of one run.

    Raises:
        OutputError: it cannot be written, or exists already.
    """
    weight_map = {name: path.name for path, records in shards.items() for name in records}
    size = sum(-(-record.packed.size // 8) for records in shards.values() for record in records.values())
    path = index_path(output)
    with atomic_path(path, overwrite) as temporary:
        temporary.write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}, indent=2))
    return path

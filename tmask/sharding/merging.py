"""MaskShards of masks, put together by an index: what is missing or foreign is named, and nothing is copied."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from tmask.errors import FileFormatError
from tmask.files.atomic import atomic_path
from tmask.files.masks import MaskRecord, open_masks, write_masks
from tmask.files.weight_file import WeightFile
from tmask.sharding.joining import bands_by_weight, join
from tmask.sharding.place import Place
from tmask.sharding.plan import fingerprint

MaskShards = Mapping[Path, Mapping[str, MaskRecord]]

_MARK = " shards="


def shard_path(output: Path, place: Place) -> Path:
    """As Hugging Face names them: model-00002-of-00008.safetensors."""
    return output.with_name(f"{output.stem}-{place.index:05}-of-{place.count:05}{output.suffix}")


def index_path(output: Path) -> Path:
    """Of the index of all shards."""
    return output.with_name(f"{output.name}.index.json")


def joined_path(output: Path) -> Path:
    """Of the masks of weights that shards hold in bands."""
    return output.with_name(f"{output.stem}-joined{output.suffix}")


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


def open_shards(paths: Mapping[int, Path]) -> MaskShards:
    """The masks of each shard, read when they are asked for.

    Raises:
        FileFormatError: a shard of another run, with other settings or layers.
    """
    shards = {path: open_masks(path) for path in paths.values()}
    by_job: dict[str, list[str]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    seen: dict[str, Path] = {}
    for path, records in shards.items():
        for name, record in records.items():
            if name in seen:
                raise FileFormatError(f"layer {name!r} is in {seen[name].name} and in {path.name}; one is foreign")
            seen[name] = path
            shapes[name] = record.packed.shape
            by_job.setdefault(_common(record.job), []).append(path.name)
    if len(by_job) > 1:
        listed = "; ".join(f"{job!r}: {', '.join(dict.fromkeys(names))}" for job, names in by_job.items())
        raise FileFormatError(f"shards of several jobs, of which all but one are foreign: {listed}")
    (job,) = by_job or [""]
    if not job.endswith(f" plan={fingerprint(shapes.items(), len(shards))}"):
        raise FileFormatError("the shards do not hold the layers of their plan; some are foreign, solve them again")
    return shards


def _common(job: str) -> str:
    """The job without what belongs to one layer."""
    return re.sub(r" groups=\d+| layout=\w+", "", job)


def finish(output: Path, shards: MaskShards, source: WeightFile, overwrite: bool) -> Path:
    """Join the bands, which have been checked, and write the index, last of all: where it is, the shards are whole, and
    of one run.

    Raises:
        FileFormatError: bands that do not make up a weight, or weights that cannot be read.
        OutputError: a file cannot be written, or exists already.
    """
    where = {name: path.name for path, records in shards.items() for name in records}
    sizes = {name: record.packed.size for records in shards.values() for name, record in records.items()}
    bands = bands_by_weight(shards)
    if bands:
        joined = {of: join(held, source) for of, held in bands.items()}
        write_masks(joined_path(output), joined.values(), overwrite=True)  # no index names an earlier one
        for held in bands.values():
            for band, _ in held:
                del where[band.name]
        where |= dict.fromkeys(joined, joined_path(output).name)
        sizes |= {of: record.packed.size for of, record in joined.items()}
    path = index_path(output)
    with atomic_path(path, overwrite) as temporary:
        total = sum(-(-sizes[name] // 8) for name in where)
        temporary.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=2))
    return path

"""Mask files: safetensors with one bit-packed mask per parameter, and what is known of it as metadata.

The format is described in docs/reference/mask-files.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tmask.blocks.layouts import LAYOUTS
from tmask.blocks.pattern import Pattern
from tmask.blocks.tiling import Mask
from tmask.errors import FileFormatError, InvalidProblemError
from tmask.files.atomic import atomic_path, check_output
from tmask.files.bands import Band
from tmask.files.damage import DAMAGE, describe, unlike
from tmask.files.packed_mask import PackedMask
from tmask.files.safetensors_files import (
    INDEX,
    check_holds,
    each_once,
    open_safetensors,
    read_index,
    write_safetensors,
)
from tmask.files.tensors import Tensor
from tmask.files.weight_file import WeightFile
from tmask.version import __version__

FORMAT = "tmask-masks"
FORMAT_VERSION = "1"
_NUMBER = (int, float)
_TYPES: dict[str, tuple[type, ...]] = {
    "shape": (list,), "pattern": (str,), "groups": (int,), "solver": (str,), "settings": (str,), "objective": _NUMBER,
    "dual_bound": (*_NUMBER, type(None)), "total": _NUMBER, "status": (str,), "seconds": _NUMBER,
    "weights_sha256": (str,), "job": (str,),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MaskRecord:
    """One layer's mask with its origin.

    Args:
        packed: the mask, True = kept, of the weight's shape.
        weights_sha256: of the weight's dtype, shape and contents (`Tensor.sha256`).
        settings: of the solver, as text.
        job: what was asked for, as text; a resumed run takes over only masks of the same job.
        at_most: full blocks may keep fewer than n in a line, as with `keep_zeros`.
        layout: how the weight was read, as in `Solution`; "" for what its axes meant before there were layouts.
        band: what part of a weight this is, if it is not a whole one; the digest is then that of the part.
        The others are those of a `Solution`.
    """

    name: str
    packed: PackedMask = field(repr=False)
    pattern: Pattern
    groups: int
    solver: str
    settings: str
    objective: float
    dual_bound: float | None
    total: float
    status: str
    seconds: float
    weights_sha256: str
    job: str = ""
    at_most: bool = False
    layout: str = ""
    band: Band | None = None

    def __post_init__(self) -> None:
        if not self.layout:
            object.__setattr__(self, "layout", _layout_of_old(len(self.packed.shape)))

    @property
    def mask(self) -> Mask:
        """A new bool array each time that it is asked for."""
        return self.packed.unpack()

    def metadata(self) -> dict[str, Any]:
        """What the file says of the mask, beside its bits."""
        known = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("name", "packed")}
        # So that other files stay as they always were, and older versions read them.
        if not self.at_most:
            del known["at_most"]
        if self.band is None:
            del known["band"]
        else:
            known["band"] = asdict(self.band)
        return {"shape": list(self.packed.shape)} | known | {"pattern": str(self.pattern)}


def write_masks(path: str | Path, records: Iterable[MaskRecord], overwrite: bool = False) -> None:
    """Write a mask file, whole or not at all.

    Raises:
        OutputError: it cannot be written, or exists already.
        InvalidProblemError: two masks of one name.
    """
    path = check_output(path, overwrite)
    tensors: dict[str, Tensor] = {}
    layers: dict[str, dict[str, Any]] = {}
    for record in records:
        if record.name in tensors:
            raise InvalidProblemError(f"two masks for {record.name!r}; a mask file holds one for each parameter")
        tensors[record.name] = Tensor("uint8", record.packed.bits)
        layers[record.name] = record.metadata()
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tmask_version": __version__,
        "layers": json.dumps(layers),
    }
    listing = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    with atomic_path(path, overwrite) as temporary:
        write_safetensors(temporary, listing, lambda name: tensors[name], metadata)


def read_masks(path: str | Path) -> Mapping[str, MaskRecord]:
    """The records of a mask file, by parameter name; of the index of merged shards, or a folder with one, those of all.

    Records of an index are read when they are asked for, each time anew, so that the masks of a large model need not be
    in memory together.

    Raises:
        FileFormatError: missing, damaged, not a mask file, or of a newer format; with an index, a damaged mask is found
            when it is asked for.
    """
    masks = open_masks(path)
    return masks if isinstance(masks, _MaskIndex) else dict(masks)


def open_masks(path: str | Path) -> Mapping[str, MaskRecord]:
    """As `read_masks`, but each record is read when it is asked for in any case.

    Raises:
        FileFormatError: as `read_masks`.
    """
    path = Path(path)
    try:
        if path.is_dir():
            path = _index_in(path)
        if not path.is_file():
            raise FileFormatError(f"{path} {'is no regular file' if path.exists() else 'does not exist'}")
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {describe(error)}") from error
    return _MaskIndex(path) if path.name.lower().endswith(INDEX) else _MaskFile(path)


def _index_in(folder: Path) -> Path:
    found = sorted(folder.glob(f"*{INDEX}"))
    if len(found) != 1:
        raise FileFormatError(f"{folder} is a folder with {len(found)} indexes of masks; name a file")
    return found[0]


class _MaskFile(Mapping[str, MaskRecord]):
    """The records of one file, read when they are asked for."""

    def __init__(self, path: Path) -> None:
        import safetensors

        self._path = path
        with self._reading():
            self._bits = _opened(path)
            with safetensors.safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
            _check_format(path, metadata)
            self._layers: dict[str, dict[str, Any]] = json.loads(metadata["layers"], object_pairs_hook=each_once)
            if set(self._layers) != set(self._bits.names):
                raise ValueError("its masks and their descriptions do not belong together")

    def __getitem__(self, name: str) -> MaskRecord:
        layer = self._layers[name]
        with self._reading():
            tensor = self._bits.read(name)
            if tensor.dtype != "uint8":
                raise ValueError(f"{name!r} holds {tensor.dtype}, no bits")
            return _record(name, layer, tensor.bits)

    def __contains__(self, name: object) -> bool:
        return name in self._layers  # what a Mapping has would read the mask

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """The file's damage in words."""
        import safetensors

        try:
            yield
        except FileFormatError:
            raise
        except KeyError as error:
            raise FileFormatError(f"{self._path} is no complete mask file: {error} is missing; solve again") from error
        except (safetensors.SafetensorError, *DAMAGE) as error:
            if isinstance(error, OSError) and error.strerror:
                raise FileFormatError(f"{self._path} cannot be read: {describe(error)}") from error
            raise unlike(self._path, "mask file", error) from error


class _MaskIndex(Mapping[str, MaskRecord]):
    """The records of all shards that an index lists."""

    def __init__(self, path: Path) -> None:
        self._where = read_index(path)
        self._shards = {shard: _MaskFile(path.parent / shard) for shard in dict.fromkeys(self._where.values())}
        check_holds(path, self._where, self._shards)

    def __getitem__(self, name: str) -> MaskRecord:
        return self._shards[self._where[name]][name]

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def _opened(path: Path) -> WeightFile:
    """Refuses what is no safetensors file, or names two masks alike; the error is worded by the name's ending."""
    try:
        return open_safetensors(path)
    except FileFormatError as error:
        if path.suffix.lower() in ("", ".safetensors"):
            raise
        raise FileFormatError(
            f"{path} is no mask file: masks are .safetensors files, as `tmask solve` writes them"
        ) from error


def _check_format(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise FileFormatError(f"{path} is a safetensors file, but no mask file (write one with `tmask solve`)")
    if metadata.get("format_version") != FORMAT_VERSION:
        raise FileFormatError(
            f"{path} has mask format {metadata.get('format_version')}; this tmask reads {FORMAT_VERSION}"
        )


def _record(name: str, layer: dict[str, Any], packed: npt.NDArray[np.uint8]) -> MaskRecord:
    shape = tuple(layer["shape"])
    layer = {"layout": _layout_of_old(len(shape))} | layer
    for key, types in _TYPES.items():
        # JSON's true is an int to Python.
        if not isinstance(layer[key], types) or isinstance(layer[key], bool):
            raise ValueError(f"{key} of {name!r} is {layer[key]!r}")
    if not isinstance(layer.get("at_most", False), bool):
        raise ValueError(f"at_most of {name!r} is {layer['at_most']!r}")
    if layer["layout"] not in LAYOUTS:
        raise ValueError(f"layout of {name!r} is {layer['layout']!r}")
    try:
        mask = PackedMask(packed, shape)
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from error
    known = {key: value for key, value in layer.items() if key not in ("shape", "pattern", "band")}
    band = _band(name, layer["band"], mask.shape) if "band" in layer else None
    return MaskRecord(name=name, packed=mask, pattern=Pattern.parse(layer["pattern"]), band=band, **known)


def _band(name: str, said: dict[str, Any], shape: tuple[int, ...]) -> Band:
    band = Band(**said | {"whole": tuple(said["whole"])})
    if (band.name, band.shape) != (name, shape):
        raise ValueError(f"{name!r} of shape {shape} is not the band {band.name!r} of shape {band.shape}")
    return band


def _layout_of_old(axes: int) -> str:
    """Of a mask that does not say: more than two axes meant a convolution."""
    return "convolution" if axes > 2 else "matrix"

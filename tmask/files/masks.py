"""Mask files: safetensors with one bit-packed mask per parameter, and what is known of it as metadata.

The format is described in docs/reference/mask-files.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tmask.blocks.layouts import LAYOUTS
from tmask.blocks.pattern import Pattern
from tmask.blocks.tiling import Mask
from tmask.errors import FileFormatError, InvalidProblemError
from tmask.files.atomic import atomic_path, check_output
from tmask.files.damage import DAMAGE, describe, unlike
from tmask.files.packed_mask import PackedMask
from tmask.files.safetensors_files import each_once, open_safetensors, write_safetensors
from tmask.files.tensors import Tensor
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
        if not self.at_most:  # so that other files stay as they always were, and older versions read them
            del known["at_most"]
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


def read_masks(path: str | Path) -> dict[str, MaskRecord]:
    """The records of a mask file, by parameter name.

    Raises:
        FileFormatError: missing, damaged, not a mask file, or of a newer format.
    """
    import safetensors

    path = Path(path)
    try:
        if not path.is_file():
            raise FileFormatError(f"{path} {'is no regular file' if path.exists() else 'does not exist'}")
        _check_contents(path)
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = set(file.keys())
            _check_format(path, metadata)
            layers = json.loads(metadata["layers"], object_pairs_hook=each_once)
            if set(layers) != names:
                raise ValueError("its masks and their descriptions do not belong together")
            return {name: _record(name, layers[name], file.get_tensor(name)) for name in layers}
    except FileFormatError:
        raise
    except KeyError as error:
        raise FileFormatError(f"{path} is no complete mask file: {error} is missing; solve again") from error
    except (safetensors.SafetensorError, *DAMAGE) as error:
        if isinstance(error, OSError) and error.strerror:
            raise FileFormatError(f"{path} cannot be read: {describe(error)}") from error
        raise unlike(path, "mask file", error) from error


def _check_contents(path: Path) -> None:
    """Refuse what is no safetensors file, or names two masks alike; the error is worded by the name's ending."""
    try:
        open_safetensors(path)
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
    known = {key: value for key, value in layer.items() if key not in ("shape", "pattern")}
    return MaskRecord(name=name, packed=mask, pattern=Pattern.parse(layer["pattern"]), **known)


def _layout_of_old(axes: int) -> str:
    """Of a mask that does not say: more than two axes meant a convolution."""
    return "convolution" if axes > 2 else "matrix"

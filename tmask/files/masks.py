"""Mask files: safetensors with one bit-packed mask per parameter, and what is known of it as metadata.

The format is described in docs/mask-files.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tmask import __version__
from tmask.blocks import Mask
from tmask.errors import FileFormatError
from tmask.files.atomic import atomic_path, check_output
from tmask.files.tensors import CODES, Tensor
from tmask.files.weights import WeightFile
from tmask.pattern import Pattern

FORMAT = "tmask-masks"
FORMAT_VERSION = "1"


@dataclass(frozen=True, slots=True)
class MaskRecord:
    """One layer's mask with its origin.

    Args:
        mask: bool, True = kept, of the weight's shape.
        weights_sha256: of the weight's dtype, shape and contents (`Tensor.sha256`).
        settings: of the solver, as text.
        job: what was asked for, as text; a resumed run takes over only masks of the same job.
        The others are those of a `Solution`.
    """

    name: str
    mask: Mask = field(repr=False)
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

    def metadata(self) -> dict[str, Any]:
        """What the file says of the mask, beside its bits."""
        return {
            "shape": list(self.mask.shape),
            "pattern": str(self.pattern),
            "groups": self.groups,
            "solver": self.solver,
            "settings": self.settings,
            "objective": self.objective,
            "dual_bound": self.dual_bound,
            "total": self.total,
            "status": self.status,
            "seconds": self.seconds,
            "weights_sha256": self.weights_sha256,
            "job": self.job,
        }


def write_masks(path: str | Path, records: Iterable[MaskRecord], overwrite: bool = False) -> None:
    """Write a mask file, whole or not at all.

    Raises:
        OutputError: it cannot be written, or exists already.
    """
    path = check_output(path, overwrite)
    records = list(records)
    layers = {record.name: record.metadata() for record in records}
    tensors = {record.name: Tensor("uint8", np.packbits(record.mask.ravel(), bitorder="little")) for record in records}
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tmask_version": __version__,
        "layers": json.dumps(layers),
    }
    _write(path, tensors, metadata)


def read_masks(path: str | Path) -> dict[str, MaskRecord]:
    """The records of a mask file, by parameter name.

    Raises:
        FileFormatError: missing, damaged, not a mask file, or of a newer format.
    """
    import safetensors

    path = Path(path)
    if not path.is_file():
        raise FileFormatError(f"{path} does not exist")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise FileFormatError(f"{path} is a safetensors file, but no mask file (write one with `tmask solve`)")
            if metadata.get("format_version") != FORMAT_VERSION:
                raise FileFormatError(
                    f"{path} has mask format {metadata.get('format_version')}; this tmask reads {FORMAT_VERSION}"
                )
            layers = json.loads(metadata["layers"])
            return {name: _record(name, layers[name], file.get_tensor(name)) for name in layers}
    except FileFormatError:
        raise
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{path} is no complete mask file: {error}") from error


def check_belongs(record: MaskRecord, tensor: Tensor) -> None:
    """Return if the mask was made for these weights.

    Raises:
        FileFormatError: another shape, or other contents.
    """
    if record.mask.shape != tensor.shape:
        raise FileFormatError(
            f"the mask of {record.name!r} has shape {record.mask.shape}, but the weight has {tensor.shape}"
        )
    if record.weights_sha256 != tensor.sha256():
        raise FileFormatError(f"the mask of {record.name!r} was made for other weights (their hash differs)")


def write_masked_weights(
    path: str | Path, source: WeightFile, masks: Mapping[str, Mask], overwrite: bool = False
) -> None:
    """A safetensors file with every tensor of the source, pruned entries set to +0, all other bits as they are.

    Raises:
        OutputError: it cannot be written, or exists already.
        FileFormatError: a tensor that cannot be read, or of a dtype that safetensors does not have.
    """
    path = check_output(path, overwrite)
    tensors = {}
    for name in source.names:
        tensor = source.read(name)
        if tensor.dtype not in CODES:
            raise FileFormatError(f"tensor {name!r} has dtype {tensor.dtype}, which safetensors cannot hold")
        bits = np.where(masks[name], tensor.bits, 0) if name in masks else tensor.bits
        tensors[name] = Tensor(tensor.dtype, bits.astype(tensor.bits.dtype, copy=False))
    _write(path, tensors, {"format": "pt"})


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    import safetensors

    bits = {name: np.ascontiguousarray(tensor.bits) for name, tensor in tensors.items()}  # kept alive while written
    entries = {
        name: safetensors.TensorSpec(
            dtype=tensors[name].dtype, shape=array.shape, data_ptr=array.ctypes.data, data_len=array.nbytes
        )
        for name, array in bits.items()
    }
    with atomic_path(path) as temporary:
        safetensors.serialize_file(entries, temporary, metadata)


def _record(name: str, layer: dict[str, Any], packed: npt.NDArray[np.uint8]) -> MaskRecord:
    shape = tuple(layer["shape"])
    count = math.prod(shape)
    if packed.dtype != np.uint8 or packed.size != -(-count // 8):
        raise ValueError(f"{packed.size} bytes do not hold a mask of shape {shape}")
    mask = np.unpackbits(packed, count=count, bitorder="little").astype(np.bool_).reshape(shape)
    known = {key: value for key, value in layer.items() if key not in ("shape", "pattern")}
    return MaskRecord(name=name, mask=mask, pattern=Pattern.parse(layer["pattern"]), **known)

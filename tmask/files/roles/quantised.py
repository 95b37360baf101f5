"""Quantised weights in a file: codes, which no mask can be found for, and the tensors that say what they stand for."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tmask.files.weight_file import WeightFile

# What the scales, zero points and tables of a quantised tensor are called: its own name, or its module's, and this.
_COMPANION = re.compile(
    r"[._](scales?|scale_inv|scale_\d|zero_points?|zeros?|qzeros|absmax|quant_map|SCB|g_idx|codebooks?|scb"
    r"|bitmask|row_offsets|biases|SU|SV|quant_state\.\w+)$"
)
# Tensors that hold codes whatever their dtype is; `compressed` ones are floats with the zeros left out.
_CODES = re.compile(r"(^|[._])(qweight|weight_packed|weight_compressed|weight\.compressed|W_q|Qidxs|qidxs)$")
# Whole numbers and floats of 8 bits and less; torch's own quantised types and safetensors' short names among them.
_CODED = re.compile(r"q?u?int\d+\w*|float[1-8]_\w*|float8\w*|[fiu]\d\w*")
_STEM = re.compile(r"[._](qweight|weight_packed|compressed|weight|blocks|packed|W_q|Qidxs|codes|qdata)$")


def find_codes(file: WeightFile) -> dict[str, str]:
    """The tensors that hold codes, each with the name of a companion, or "".

    Codes are whole numbers, or floats of 8 bits and less, with a companion; or have a name that only codes have.
    """
    companions = _companions(file)
    found = {}
    for name, shape in file.shapes.items():
        if len(shape) < 2 or 0 in shape or companion_stem(name):
            continue
        beside = next((companions[stem] for stem in _stems(name) if stem in companions), "")
        named = _CODES.search(name) is not None
        coded = _CODED.fullmatch(file.dtypes[name]) and (beside or name.rpartition(".")[2] == "weight")
        if named or coded:
            found[name] = beside
    return found


def companion_stem(name: str) -> str:
    """The name of what a tensor is a companion of, by its own name; "" if it is none."""
    match = _COMPANION.search(name)
    return name[: match.start()] if match else ""


def owner_of(name: str, codes: Mapping[str, str]) -> str:
    """The codes that a tensor is a companion of, or ""."""
    stem = companion_stem(name)
    return next((code for code in codes if stem in _stems(code)), "") if stem else ""


def _companions(file: WeightFile) -> dict[str, str]:
    return {stem: name for name in file.names if (stem := companion_stem(name))}


def _stems(name: str) -> tuple[str, ...]:
    """What a companion's name may begin with: `fc.weight` has `fc.weight_scale`, or `fc.scales`."""
    return name, _STEM.sub("", name), f"{_STEM.sub('', name)}.weight"

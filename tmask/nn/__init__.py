"""Sparse training in PyTorch: transposable N:M masks in the forward and the backward pass.

`sparsify` puts masks on a model and returns a `Sparsifier`, which renews them by a schedule; `export` bakes them in.
`pack` and `unpack` give a 2:4 weight the layout of sparse tensor cores, and back.
"""

from tmask.nn.applying import sparsify
from tmask.nn.baking import bake
from tmask.nn.decay import MaskedDecay
from tmask.nn.exporting import export, export_state_dict
from tmask.nn.packing import Packed, pack, unpack
from tmask.nn.report import LayerRenewal, LayerReport, Renewal, Report, Score
from tmask.nn.schedules import Frozen, Periodic, Schedule
from tmask.nn.sparsifier import Sparsifier

__all__ = [
    "Frozen",
    "LayerRenewal",
    "LayerReport",
    "MaskedDecay",
    "Packed",
    "Periodic",
    "Renewal",
    "Report",
    "Schedule",
    "Score",
    "Sparsifier",
    "bake",
    "export",
    "export_state_dict",
    "pack",
    "sparsify",
    "unpack",
]

"""Sparse training in PyTorch, and pruning of trained models with little data.

`sparsify` puts masks on a model and returns a `Sparsifier`, which renews them by a schedule; `export` bakes them in.
`pack` and `unpack` give a 2:4 weight the layout of sparse tensor cores, and back. `adaprune`, `sparsegpt` and `convert`
prune a trained model on calibration data.
"""

from tmask.nn.adaprune import adaprune
from tmask.nn.applying import sparsify
from tmask.nn.baking import bake
from tmask.nn.batch_norm import recalibrate
from tmask.nn.convert import ConversionReport, convert
from tmask.nn.decay import MaskedDecay
from tmask.nn.diversity import model_diversity
from tmask.nn.exporting import export, export_state_dict
from tmask.nn.losses import reconstruction_losses
from tmask.nn.packing import Packed, pack, unpack
from tmask.nn.pruning_report import LayerPruning, PruningReport
from tmask.nn.reconstruct import collect_grams, reconstruct
from tmask.nn.report import LayerRenewal, LayerReport, Renewal, Report, Score
from tmask.nn.schedules import Frozen, Periodic, Schedule
from tmask.nn.scores import available_scores, register_score
from tmask.nn.sparsegpt import sparsegpt
from tmask.nn.sparsifier import Sparsifier

__all__ = [
    "ConversionReport",
    "Frozen",
    "LayerPruning",
    "LayerRenewal",
    "LayerReport",
    "MaskedDecay",
    "Packed",
    "Periodic",
    "PruningReport",
    "Renewal",
    "Report",
    "Schedule",
    "Score",
    "Sparsifier",
    "adaprune",
    "available_scores",
    "bake",
    "collect_grams",
    "convert",
    "export",
    "export_state_dict",
    "model_diversity",
    "pack",
    "recalibrate",
    "reconstruct",
    "reconstruction_losses",
    "register_score",
    "sparsegpt",
    "sparsify",
    "unpack",
]

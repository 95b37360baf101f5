"""Pruning of trained PyTorch models, with little data and no training."""

from tmask.nn.adaprune import adaprune
from tmask.nn.batch_norm import recalibrate
from tmask.nn.convert import ConversionReport, convert
from tmask.nn.pruning_report import LayerPruning, PruningReport
from tmask.nn.reconstruct import collect_grams, reconstruct
from tmask.nn.scores import available_scores, register_score
from tmask.nn.sparsegpt import sparsegpt

__all__ = [
    "ConversionReport",
    "LayerPruning",
    "PruningReport",
    "adaprune",
    "available_scores",
    "collect_grams",
    "convert",
    "recalibrate",
    "reconstruct",
    "register_score",
    "sparsegpt",
]

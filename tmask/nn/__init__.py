"""Sparse training in PyTorch, and pruning of trained models with little data.

`sparsify` puts masks on a model and returns a `Sparsifier`, which renews them by a schedule; `export` bakes them in.
`pack` and `unpack` give a 2:4 weight the layout of sparse tensor cores, and back. `adaprune`, `sparsegpt` and `convert`
prune a trained model on calibration data, and `prune_blocks` a language model, block by block.
"""

import importlib.util

from tmask.errors import SolverUnavailableError

# Before the imports below, the first of which would end in torch's absence with a traceback and no advice.
if importlib.util.find_spec("torch") is None:
    raise SolverUnavailableError('tmask.nn needs torch, not installed here; run: pip install "tmask[torch]"')

from tmask.nn.blockwise.block_refit import BlockRefit
from tmask.nn.blockwise.blockwise_report import BlockwiseReport
from tmask.nn.blockwise.entry import prune_blocks
from tmask.nn.blockwise.tuning import Tuning
from tmask.nn.calibration.batch_norm import recalibrate
from tmask.nn.diversity import model_diversity
from tmask.nn.fitting.pruning_report import LayerPruning, PruningReport
from tmask.nn.fitting.scores import available_scores, register_score
from tmask.nn.layers.renewals import LayerRenewal, LayerReport, Renewal, Report
from tmask.nn.methods.registry import available_methods, get_method, register_method
from tmask.nn.packing.layout import Packed, pack, unpack
from tmask.nn.pruning.adaprune import adaprune
from tmask.nn.pruning.convert import ConversionReport, convert
from tmask.nn.pruning.grams import collect_grams
from tmask.nn.pruning.losses import reconstruction_losses
from tmask.nn.pruning.reconstruct import reconstruct
from tmask.nn.pruning.sparsegpt import sparsegpt
from tmask.nn.recipes import transposable, transposable_recipe
from tmask.nn.training.applying import sparsify
from tmask.nn.training.baking import bake
from tmask.nn.training.decay import MaskedDecay
from tmask.nn.training.exporting import export, export_state_dict
from tmask.nn.training.flips import DecayChoice, FlipRate, find_decay
from tmask.nn.training.graphed import GraphedStep
from tmask.nn.training.low_rank import Adapters, add_low_rank
from tmask.nn.training.schedules import Frozen, Periodic, Schedule
from tmask.nn.training.sparsifier import Sparsifier
from tmask.nn.training.unbiased import estimate_gradients, exact_gradients, unbiased_estimate

__all__ = [
    "Adapters",
    "BlockRefit",
    "BlockwiseReport",
    "ConversionReport",
    "DecayChoice",
    "FlipRate",
    "Frozen",
    "GraphedStep",
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
    "Sparsifier",
    "Tuning",
    "adaprune",
    "add_low_rank",
    "available_methods",
    "available_scores",
    "bake",
    "collect_grams",
    "convert",
    "estimate_gradients",
    "exact_gradients",
    "export",
    "export_state_dict",
    "find_decay",
    "get_method",
    "model_diversity",
    "pack",
    "prune_blocks",
    "recalibrate",
    "reconstruct",
    "reconstruction_losses",
    "register_method",
    "register_score",
    "sparsegpt",
    "sparsify",
    "transposable",
    "transposable_recipe",
    "unbiased_estimate",
    "unpack",
]

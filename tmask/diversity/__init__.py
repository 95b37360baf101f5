"""Mask diversity: how many masks a constraint allows, the measure of freedom of [Hubara2021], counted exactly."""

from tmask.diversity.counts import (
    cut_short_count,
    kept_of,
    plain_count,
    product_formula,
    structured_count,
    transposable_bounds,
    transposable_count,
    transposable_estimate,
    unstructured_count,
)
from tmask.diversity.surveys import (
    DEFAULT_PATTERNS,
    PatternDiversity,
    model_diversity,
    pattern_diversity,
)
from tmask.diversity.tensors import CONSTRAINTS, Diversity, tensor_diversity

__all__ = [
    "CONSTRAINTS",
    "DEFAULT_PATTERNS",
    "Diversity",
    "PatternDiversity",
    "cut_short_count",
    "kept_of",
    "model_diversity",
    "pattern_diversity",
    "plain_count",
    "product_formula",
    "structured_count",
    "tensor_diversity",
    "transposable_bounds",
    "transposable_count",
    "transposable_estimate",
    "unstructured_count",
]

"""Scores: what makes a weight worth keeping. Any of them can drive any solver.

A score is a function of the weights and of what the calibration data say about the layer's inputs. A new one is added
with `register_score`, and has then a name that every pruning function takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tmask.errors import InvalidProblemError
from tmask.nn.calibration.gram import Gram
from tmask.nn.fitting.cholesky import check_samples, damped, invert


class ScoreFunction(Protocol):
    """Importances (G, R, C) >= 0 of weights (G, R, C), both float64."""

    def __call__(self, weight: Tensor, gram: Gram, damping: float) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class NamedScore:
    """A function of importances under the name by which users ask for it.

    Args:
        name: what users call it.
        function: the importances.
        source: where it comes from; a key in brackets resolves in docs/reference/references.md.
        about: the formula in words.
        centred: whether it is given the sums of inputs less their means, where a bias or a batch norm takes up the mean
            of the output; else those of the inputs as they are.
    """

    name: str
    function: ScoreFunction
    source: str
    about: str
    centred: bool = False


_registered: dict[str, NamedScore] = {}


def register_score(
    name: str, *, source: str, about: str, centred: bool = False
) -> Callable[[ScoreFunction], ScoreFunction]:
    """A decorator that makes a function a score of this name.

    Raises:
        InvalidProblemError: the name is taken.
    """

    def register(function: ScoreFunction) -> ScoreFunction:
        if name in _registered:
            raise InvalidProblemError(f"a score named {name!r} exists already; choose another name")
        _registered[name] = NamedScore(name, function, source, about, centred)
        return function

    return register


def available_scores() -> list[NamedScore]:
    """All scores, in the order of registration."""
    return list(_registered.values())


def get_score(name: str) -> NamedScore:
    """The score of a name.

    Raises:
        InvalidProblemError: there is none; lists those that exist.
    """
    if name not in _registered:
        raise InvalidProblemError(f"no score is named {name!r}; there are: {', '.join(_registered)}")
    return _registered[name]


@register_score("magnitude", source="[Han2015], [Hubara2021]", about="|w|")
def magnitude(weight: Tensor, gram: Gram, damping: float) -> Tensor:
    """The sum of |w| that is kept is largest: the objective of [Hubara2021]."""
    return weight.abs()


@register_score("squared", source="[Lecun1990]", about="w^2")
def squared(weight: Tensor, gram: Gram, damping: float) -> Tensor:
    """The squared change of the weight is smallest; and of the output, for inputs that are white.

    Optimal brain damage [Lecun1990] with the same curvature for every weight.
    """
    return weight.square()


@register_score("wanda", source="[Sun2024]", about="|w| ||x||, x all samples of the input that w multiplies")
def wanda(weight: Tensor, gram: Gram, damping: float) -> Tensor:
    """|w_ij| times the norm of input j over all samples."""
    # Rounding can leave a sum of squares below 0 where the mean has been taken off.
    norms = gram.xx.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()  # (G, C)
    return weight.abs() * norms[:, None, :]


@register_score(
    "obs", source="[Hassibi1993], [Frantar2023]", about="w^2 / [H^-1]_jj, H = X^T X + damping", centred=True
)
def obs(weight: Tensor, gram: Gram, damping: float) -> Tensor:
    """By how much the squared error of the output rises at least if this weight alone is removed.

    Optimal brain surgeon [Hassibi1993]: the other weights of the row are free to make up for it, and so is the bias or
    the batch norm behind the layer, where there is one. A weight of an input that is always 0 costs nothing.

    Raises:
        InvalidProblemError: too few samples, or a singular Gram matrix, and damping 0.
    """
    # An input that is always 0 has a 1 in the damped matrix, put there to invert it, and no importance.
    alive = gram.xx.diagonal(dim1=1, dim2=2) > 0
    # All weights of a row make up for the one that goes, so all that have an input count, not only the kept ones.
    check_samples(gram, int(alive.sum(1).max()), damping)
    inverse = invert(damped(gram.xx, damping))
    return weight.square() * (alive / inverse.diagonal(dim1=1, dim2=2))[:, None, :]


def importances(score: NamedScore, weight: Tensor, gram: Gram, damping: float) -> Tensor:
    """The importances, checked.

    Raises:
        InvalidProblemError: negative or not finite, or another shape than the weights'.
    """
    # Of one's own scores nothing is known; what a solver would say of such values names no score.
    found = score.function(weight, gram, damping)
    if found.shape != weight.shape or not bool(torch.isfinite(found).all()) or bool((found < 0).any()):
        raise InvalidProblemError(
            f"score {score.name!r} gave values of shape {tuple(found.shape)} for weights {tuple(weight.shape)}; "
            "it must give one for each, >= 0 and finite"
        )
    return found

"""Block refit: what is missing behind a block's attention, and behind its MLP, put into the last matrix of each.

A method brings each matrix near to what that matrix gives in the dense model. The hidden states to which its outputs
are added have lost something too, in this block and in those before. So when the last matrix of an attention or of an
MLP is pruned, with weights W on its mask and inputs X, what is missing behind it,

    E = hidden states of the dense model - hidden states of the pruned one,

is fitted once more, in closed form, by the weights D on the mask that minimise

    ||X D^T - E||^2 / S + sum over inputs j of lambda_j ||d_j||^2,    lambda_j as for methods,

and W becomes W + D; a bias takes up the mean. As D = 0 is allowed, the hidden states behind come no farther from the
dense ones, but for rounding.

That attention and MLP are reconstructed one by one, and not matrix by matrix, follows [Wagner2025], which trains their
weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist

from tmask.errors import InvalidProblemError, TmaskError
from tmask.nn.blockwise.calls import BlockCall
from tmask.nn.blockwise.collecting import Twin
from tmask.nn.blockwise.stream import Joint, find_joints, run_to
from tmask.nn.calibration.reading import Key
from tmask.nn.calibration.stored_matrix import bias_of
from tmask.nn.distributed.ranks import Ranks, check_same, together
from tmask.nn.methods.goal import DAMPING, Goal, factor_of
from tmask.nn.methods.refit import Refit
from tmask.nn.methods.settings import not_negative, positive


@dataclass(frozen=True, slots=True)
class BlockRefit:
    """How what is missing behind attention and MLP is fitted.

    Args:
        damping: share of the mean square of all inputs that is added to the diagonal of their moments, above 0.
        shrinkage: share of each input's own mean square that is added as well. What is missing follows from inputs only
            in part, and so much more is needed than for a matrix's own outputs (docs/reference/pruning-methods.md).
    """

    damping: float = DAMPING
    shrinkage: float = 1.0

    def __post_init__(self) -> None:
        positive("damping", self.damping)
        not_negative("shrinkage", self.shrinkage)


class BlockRefitting:
    """The refit of one block, called when some of its matrices have been pruned.

    Args:
        prefix: of the names of its parameters in the model, with the dot.
        pruned, dense: the block and its dense copy.
        ranks: the processes, each with its own batches.
    Raises:
        InvalidProblemError: no matrix of the block adds to the hidden states.
        RanksDifferError: other ones do in another process.
    """

    def __init__(
        self,
        prefix: str,
        pruned: Twin,
        dense: Twin,
        calls: Sequence[BlockCall],
        settings: BlockRefit,
        ranks: Ranks | None = None,
    ) -> None:
        self.prefix, self.pruned, self.dense, self.calls = prefix, pruned, dense, calls
        self.settings, self.ranks = settings, ranks
        with together(ranks):
            self.joints = find_joints(pruned.block, calls[0], pruned.states[0])
            if not self.joints:
                raise InvalidProblemError(
                    "block refit needs a matrix whose outputs are added to the hidden states as they are, and this "
                    "block has none; leave the refit out"
                )
        if ranks is not None:  # they add up sums of these, one by one
            check_same(ranks.gather(self.joints), f"{prefix[:-1]}: the joints of the block differ", "give like data")

    def __call__(self, keys: Collection[Key], masks: Mapping[str, Tensor]) -> None:
        """Refit those of some matrices, just pruned, that add to the hidden states.

        Args:
            masks: by full name.
        """
        for joint in self.joints:
            if joint.key in keys:
                self._refit(joint, masks[self.prefix + joint.key.parameter])

    @torch.no_grad()
    def _refit(self, joint: Joint, mask: Tensor) -> None:
        parameter = self.pruned.block.get_parameter(joint.key.parameter)
        weight, kept = (parameter, mask) if joint.outputs_first else (parameter.T, mask.T)
        missing = _Missing.zeros(weight)
        with together(self.ranks):
            for number, call in enumerate(self.calls):
                _, wanted = run_to(joint, self.dense.block, call, self.dense.states[number])
                inputs, behind = run_to(joint, self.pruned.block, call, self.pruned.states[number])
                missing.add(inputs, wanted - behind)
        if self.ranks is not None:  # directly behind the exchange of failures
            missing.add_up()
        with together(self.ranks):
            try:
                _fill_in(self.pruned.block, joint, weight, missing, kept.to(weight.device), self.settings)
            except TmaskError as error:
                raise type(error)(f"{joint.key}: block refit: {error}") from error


def _fill_in(
    block: nn.Module, joint: Joint, weight: Tensor, missing: _Missing, mask: Tensor, settings: BlockRefit
) -> None:
    """Put what is missing into a weight and its bias."""
    bias = bias_of(block, joint.key)
    own = missing if bias is None else missing.centred()
    change = Refit()(own.goal(settings), torch.zeros_like(own.xe.T), mask)
    if not bool(torch.isfinite(change).all()):
        raise InvalidProblemError("the change of its weights is not finite")
    before = weight.to(change.dtype, copy=True)
    weight.copy_(before + change)
    if bias is not None:
        # Of the weights as they are stored: what rounding has moved is taken up as well.
        moved = weight.to(change.dtype) - before
        bias += ((missing.e - moved @ missing.x) / missing.samples).to(bias.dtype)


@dataclass(slots=True)
class _Missing:
    """Sums over S samples of inputs x and of what is missing, e: xx (C, C), x (C,), xe (C, R) and e (R,)."""

    xx: Tensor
    x: Tensor
    xe: Tensor
    e: Tensor
    samples: int = 0

    @classmethod
    def zeros(cls, weight: Tensor) -> _Missing:
        """Of no samples yet; float64 for float64 weights, else float32."""
        outputs, inputs = weight.shape
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32

        def new(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=weight.device)

        return cls(new(inputs, inputs), new(inputs), new(inputs, outputs), new(outputs))

    def add(self, x: Tensor, e: Tensor) -> None:
        """Add samples x (S, C) and what is missing with them (S, R)."""
        x, e = x.to(self.xx.dtype), e.to(self.xx.dtype)
        self.xx.addmm_(x.T, x)
        self.xe.addmm_(x.T, e)
        self.x += x.sum(0)
        self.e += e.sum(0)
        self.samples += len(x)

    def add_up(self) -> None:
        """Of all processes."""
        samples = torch.tensor(self.samples, device=self.x.device)
        for total in (self.xx, self.x, self.xe, self.e, samples):
            dist.all_reduce(total)
        self.samples = int(samples)

    def centred(self) -> _Missing:
        """Less the means, which a bias takes up."""
        mean = self.x / self.samples
        xx = self.xx - torch.outer(self.x, mean)
        xx.diagonal().clamp_(min=0)  # an input that is always the same comes out as rounding, below 0 as often as not
        return _Missing(xx, self.x, self.xe - torch.outer(mean, self.e), self.e, self.samples)

    def goal(self, settings: BlockRefit) -> Goal:
        """The quadratic of the change of weights.

        Raises:
            InvalidProblemError: damping too small for inputs that depend on one another.
        """
        moments = self.xx / self.samples
        squares = moments.diagonal()
        mean = float(squares.mean())
        hessian = moments + torch.diag(settings.shrinkage * squares + settings.damping * (mean if mean > 0 else 1.0))
        # In float64: the least directions of the inputs decide here, and a float32 has lost them.
        right = self.xe.double() / self.samples
        best = torch.cholesky_solve(right, factor_of(hessian.double())).T
        return Goal(best.to(self.xx.dtype).contiguous(), hessian)

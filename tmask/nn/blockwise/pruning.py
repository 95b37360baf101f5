"""One block pruned: stage by stage, each matrix by a method, from the moments of what it reads."""

from __future__ import annotations

import time
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from tmask.errors import TmaskError
from tmask.nn.blockwise.block_refit import BlockRefitting
from tmask.nn.blockwise.calls import BlockCall
from tmask.nn.blockwise.choice import MatrixChoice
from tmask.nn.blockwise.collecting import Collected, Twin, advance, collect
from tmask.nn.blockwise.layout import Layout, Slot
from tmask.nn.blockwise.memory.freeing import free_heap
from tmask.nn.calibration.reading import Key
from tmask.nn.calibration.stored_matrix import bias_of
from tmask.nn.distributed.ranks import Ranks, together
from tmask.nn.methods.method import Method, Pruned
from tmask.nn.methods.problem import Problem
from tmask.nn.methods.support import Support, Within

GoalKind = Literal["dense", "layer"]


@dataclass(frozen=True, slots=True)
class BlockSettings:
    """How the matrices of a block are pruned.

    Args:
        method: that prunes a matrix.
        choice: which are pruned, and to which masks.
        goal: "dense": what the dense model has at this place; "layer": what the dense matrix gives on the inputs that
            the pruned model has here.
        by_stage: statistics of each stage after the stages before it were pruned; else once for the block.
        keep_zeros: weights that are 0 stay so.
    """

    method: Method
    choice: MatrixChoice
    goal: GoalKind = "dense"
    by_stage: bool = True
    keep_zeros: bool = False


@dataclass(frozen=True, slots=True)
class MatrixPruning:
    """One matrix.

    Args:
        name: of the parameter in the model, with its place in a stack.
        shape: (outputs, inputs).
        density: share of the weights that is kept.
        retained, optimality_gap: of the scores that decided the mask.
        solver: that found it.
        error: of its outputs on the calibration data (squared, relative) when it was pruned, to what it was to give:
            what it gives in the dense model, or, with goal "layer" and in experts, what the dense matrix gives on the
            same inputs.
        samples: that it read.
        seconds: for its mask and its weights.
    """

    name: str
    shape: tuple[int, int]
    density: float
    retained: float
    optimality_gap: float | None
    solver: str
    error: float
    samples: int
    seconds: float


@dataclass(slots=True)
class BlockPruning:
    """What was done to a block.

    Args:
        rows: of its matrices.
        masks: by full name, in the stored shape.
        skipped: reasons by name of what was left out.
        name: of the block.
        error: of the hidden states behind it, see `block_error`; None where the dense model is not run beside.
    """

    rows: list[MatrixPruning] = field(default_factory=list)
    masks: MutableMapping[str, Tensor] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    name: str = ""
    error: float | None = None


def prune_block(
    prefix: str,
    layout: Layout,
    pruned: Twin,
    dense: Twin | None,
    calls: Sequence[BlockCall],
    settings: BlockSettings,
    ranks: Ranks | None = None,
    refit: BlockRefitting | None = None,
) -> BlockPruning:
    """Prune a block in place.

    Args:
        prefix: of the names of its parameters in the model, with the dot.
        pruned: the block, with the states of the pruned model, which stay those that come to it.
        dense: a copy of it, with the states of the dense model, which become those behind it; needed for goal "dense".
        refit: of what attention and MLP leave behind, or None; it needs both.
    Raises:
        TmaskError: what data, method or solver raise, with the matrix's name.
    """
    done = BlockPruning(skipped={prefix + name: reason for name, reason in layout.skipped.items()})
    stages = layout.stages if settings.by_stage else [[slot for stage in layout.stages for slot in stage]]
    partner = dense if settings.goal == "dense" else None
    # The last pass for the moments is its way on as well, unless somebody needs what comes to the block once more.
    on_the_way = partner is not None and refit is None and bool(stages)
    try:
        for number, stage in enumerate(stages, 1):
            moments = collect(stage, pruned, partner, calls, ranks, onward=on_the_way and number == len(stages))
            # Of the same moments, and yet one process may run out of memory, or its solver out of time.
            with together(ranks):
                free_heap()  # activations, before the method makes its matrices; and those, before the next pass
                for slot, collected in zip(stage, moments, strict=True):
                    for key in slot.keys:
                        _prune_matrix(prefix, key, slot, collected, pruned.block, settings, done)
                        free_heap()
            if refit is not None:
                refit({key for slot in stage for key in slot.keys}, done.masks)
        if dense is not None and not on_the_way:
            advance(dense, calls, ranks)
    except TmaskError as error:
        raise type(error)(f"{prefix}{error}") from error
    return done


@torch.no_grad()
def _prune_matrix(
    prefix: str,
    key: Key,
    slot: Slot,
    collected: Collected,
    block: nn.Module,
    settings: BlockSettings,
    done: BlockPruning,
) -> None:
    begin = time.perf_counter()
    support = settings.choice.support(prefix + key.parameter)
    assert support is not None  # else the layout has left it out
    parameter = block.get_parameter(key.parameter)
    stored = parameter if key.index < 0 else parameter[key.index]
    weight = stored if slot.outputs_first[key] else stored.T
    bias = bias_of(block, key)
    if settings.keep_zeros:
        support = Within(support, weight != 0)
    try:
        problem = _problem(weight, key, collected, support, bias is not None)
        result = settings.method.prune(problem)
    except TmaskError as error:
        raise type(error)(f"{key}: {error}") from error
    new = result.weight.to(weight.dtype)
    missed = result.error
    if weight.dtype != result.weight.dtype:  # rounded; and before the weight that the problem holds is written over
        missed = problem.error(new.to(problem.weight.dtype))
    assert missed is not None  # its energy was given
    if bias is not None:
        bias += _shift(weight, new, collected).to(bias.dtype)
    weight.copy_(new)
    mask = result.mask if slot.outputs_first[key] else result.mask.T
    _note(done, prefix, key, mask, parameter)
    seconds = time.perf_counter() - begin
    done.rows.append(_row(f"{prefix}{key}", result, missed, collected.moments.samples, seconds))


def _problem(weight: Tensor, key: Key, collected: Collected, support: Support, centre: bool) -> Problem:
    """Less the means of inputs and outputs where a bias takes those up."""
    moments, square = collected.moments, collected.squares.get(key)
    if centre:
        if square is not None and moments.d is not None:
            square -= float((weight.to(moments.d.dtype) @ moments.d).square().sum())
        moments = moments.centred()
    return Problem(
        weight.to(moments.xx.dtype).contiguous(),
        moments.xx,
        moments.xd,
        support,
        energy=None if square is None else max(0.0, square),
    )


def _shift(weight: Tensor, new: Tensor, collected: Collected) -> Tensor:
    """What a bias must take up, so that the outputs have the mean that they are to have."""
    moments = collected.moments
    target = moments.x if moments.d is None else moments.d
    return weight.to(target.dtype) @ target - new.to(target.dtype) @ moments.x


def _note(done: BlockPruning, prefix: str, key: Key, mask: Tensor, parameter: Tensor) -> None:
    """The mask under the parameter's name, a stack's matrices together."""
    name = prefix + key.parameter
    if key.index < 0:
        done.masks[name] = mask.contiguous()
        return
    if name not in done.masks:
        done.masks[name] = torch.ones(parameter.shape, dtype=torch.bool, device=mask.device)
    done.masks[name][key.index] = mask


def _row(name: str, result: Pruned, error: float, samples: int, seconds: float) -> MatrixPruning:
    rows, cols = result.mask.shape
    return MatrixPruning(
        name=name,
        shape=(rows, cols),
        density=float(result.mask.float().mean()),
        retained=result.worth.retained,
        optimality_gap=result.worth.optimality_gap,
        solver=result.solver,
        error=error,
        samples=samples,
        seconds=seconds,
    )

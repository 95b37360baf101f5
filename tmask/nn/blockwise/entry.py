"""`prune_blocks`: a model of many like blocks pruned in place, or a directory of one into another."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from tmask.errors import InvalidProblemError
from tmask.nn.blockwise.batches import digest, hold, share
from tmask.nn.blockwise.block_refit import BlockRefit
from tmask.nn.blockwise.blocks import find_blocks
from tmask.nn.blockwise.blockwise_report import BlockwiseReport, make_report
from tmask.nn.blockwise.choice import MatrixChoice, MatrixPatterns
from tmask.nn.blockwise.directory import Directory, fingerprint
from tmask.nn.blockwise.in_memory import InMemory
from tmask.nn.blockwise.pruning import BlockSettings, GoalKind
from tmask.nn.blockwise.tuning import Tuning
from tmask.nn.blockwise.walk import WalkSettings, walk
from tmask.nn.calibration.batches import Forward
from tmask.nn.distributed.fingerprint import fingerprint as bits
from tmask.nn.distributed.ranks import Ranks, check_same, joining
from tmask.nn.libraries.offloaded import on_offloaded_too
from tmask.nn.methods.method import Method
from tmask.nn.methods.registry import get_method
from tmask.showing.progress import Progress
from tmask.solving.solver import Solver


@on_offloaded_too
def prune_blocks(
    model: nn.Module | str | Path,
    calibration: Iterable[Any],
    pattern: MatrixPatterns,
    *,
    output: str | Path | None = None,
    method: Method | str = "alps",
    transposable: bool = True,
    solver: Solver | str = "auto",
    goal: GoalKind = "dense",
    by_stage: bool = True,
    block_refit: BlockRefit | None = None,
    tuning: Tuning | None = None,
    keep_zeros: bool = False,
    blocks: str = "",
    exclude: Sequence[str] = (),
    memory: float = float("inf"),
    forward: Forward | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = None,
) -> BlockwiseReport:
    """Prune a language model, or any model whose work is done by a list of like blocks.

    Each block is run on the calibration data for what its matrices read, pruned, and run once more for what the next
    block reads: time grows with the number of blocks, and a directory is pruned in the memory of one block (twice with
    goal "dense"), the hidden states, and the second moments of what one stage reads.

    Under torch.distributed every process is given the same model, in memory or as a directory on a disk that all see,
    and the same batches, of which it runs its share; sums and gradients are over all of them, and so every process
    finds the same masks and weights. Of a directory the first process writes the output.

    Args:
        model: in memory, pruned in place; or the directory of a Hugging Face model, pruned into `output`.
        calibration: batches of the model's inputs that can be read again. What a batch's `attention_mask` calls padding
            is cut off: such a batch is run as several, of sequences that are padded alike.
        pattern: n kept of every m; patterns by globs on the names of weights, of which the first that matches counts,
            and what none matches stays dense; or a number, the density of unstructured masks.
        output: of a directory; it must not exist. Masks and report stand in its folder `tmask`.
        method: see `available_methods`; a name stands for the method with its default settings.
        transposable: along inputs and outputs; else along the inputs alone.
        solver: of transposable masks, as in `tmask.solve`.
        goal: "dense", what the dense model has at this place, so that each layer makes up for what those before it
            lost; "layer", what the dense layer gives on what the pruned model has here, which needs no dense model
            beside and takes about half the time. What an expert reads is chosen by the data, so that for experts the
            goal is always the layer's.
        by_stage: take the statistics of each group of matrices (q k v, o, gate up, down) after those before it were
            pruned; else once for a block.
        block_refit: what is missing behind a block's attention, and behind its MLP, fitted by the last matrix of each
            on its mask when that was pruned; None for none.
        tuning: gradient steps on each block's kept weights, norms and biases after its matrices; None for none.
        keep_zeros: weights that are 0 already are never kept, so that groups keep at most n.
        blocks: name of the list of blocks, where it is not the longest one.
        exclude: globs on the full names of weights, or of modules around them, that stay dense.
        memory: bytes of hidden states to hold, of the pruned and of the dense model each; the rest is mapped from
            temporary files.
        forward: how a batch goes through the model, called with both.
        dtype, device: in which, and on which, the blocks of a directory compute; None for the dtype of its config.
        progress: True for a bar; or called with blocks done, their number, and the name of the next ("" at the end).
    Raises:
        InvalidProblemError: unusable data, settings or weights; names the matrix. A model in memory keeps what was
            done to the blocks before it, and the block at which it failed is as it was; of a directory nothing is left
            under the name of the output, and the same call goes on at the block where it ended.
        UnknownSolverError, SolverUnavailableError, SolverFailedError, FileFormatError, OutputError.
    Cost: with goal "dense" each stage runs the dense and the pruned block as far as its matrices, and each of the two
        runs once more in full; with goal "layer" the pruned block alone. S C^2 for the moments of C inputs on S
        samples, and that of the method.
    """
    begin = time.perf_counter()
    ranks = Ranks.of(None)
    if ranks is not None and ranks.size == 1:
        ranks = None
    with joining(ranks):  # arguments that one rank refuses, and all that is done by one before they meet
        if goal not in get_args(GoalKind):
            raise InvalidProblemError(f"goal {goal!r}: choose one of {', '.join(get_args(GoalKind))}")
        if not memory >= 0:
            raise InvalidProblemError(f"memory {memory!r} must be a number of bytes, at least 0")
        choice = MatrixChoice.parse(pattern, transposable, solver, exclude)
        chosen = get_method(method) if isinstance(method, str) else method
        settings = WalkSettings(BlockSettings(chosen, choice, goal, by_stage, keep_zeros), tuning, memory, block_refit)
        batches = hold(calibration, forward)
        asked = repr(dataclasses.replace(settings, memory=0))  # which changes no result
        if isinstance(model, nn.Module):
            if output is not None:
                raise InvalidProblemError("output goes with a directory; a model in memory is pruned in place")
            if dtype is not None or torch.device(device).type != "cpu":
                raise InvalidProblemError(
                    "dtype and device go with a directory; a model in memory computes as it stands"
                )
            source = InMemory(model, find_blocks(model, blocks))
            own = share(batches, ranks)
            if ranks is not None:
                _check_alike(ranks, model, batches, asked + source.blocks_name)
            done = walk(source, own, settings, forward, progress, ranks)
            return make_report(model, done, time.perf_counter() - begin)
        if output is None:
            raise InvalidProblemError(f"give output=, the directory to write; {model} itself stays as it is")
        job: dict[str, Any] = {
            "model": fingerprint(Path(model)),
            "settings": asked,
            "directory": repr((blocks, dtype)),
            "calibration": digest(batches),
        }
        if ranks is not None:
            _check_same_job(ranks, job, str(output))
            job["processes"] = ranks.size  # sums round as they are shared out, and a run is continued bit by bit
        own = share(batches, ranks)
        directory = Directory(Path(model), Path(output), job, blocks, dtype, device, ranks)
        done = walk(directory, own, settings, forward, progress, ranks)
        report = make_report(directory.model, done, time.perf_counter() - begin)
        directory.finish(report, choice, repr(chosen))
        return report


def _check_same_job(ranks: Ranks, job: Mapping[str, Any], output: str) -> None:
    """Return if all processes were given the same directory, and the same to do with it.

    Raises:
        RanksDifferError: says what differs.
    """
    parts = ranks.gather((job["settings"] + job["directory"], job["calibration"], job["model"], output))
    advice = "give every process the same; each takes its own share of the batches"
    names = ("pattern, method or goal", "the calibration batches", "the files of the model", "the outputs")
    for k, what in enumerate(names):
        check_same([part[k] for part in parts], f"prune_blocks: {what} differ", advice)


def _check_alike(ranks: Ranks, model: nn.Module, batches: Sequence[Any], settings: str) -> None:
    """Return if all processes were given the same.

    Raises:
        RanksDifferError: says what differs.
    """
    shapes = [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]
    weights = [bits(parameter) for parameter in model.parameters() if not parameter.is_meta]
    parts = ranks.gather((settings, len(batches), shapes, weights))
    advice = "give every process the same; each takes its own share of the batches"
    for k, what in enumerate(
        ("pattern, method or goal", "the numbers of calibration batches", "the parameters", "the weights")
    ):
        check_same([part[k] for part in parts], f"prune_blocks: {what} differ", advice)

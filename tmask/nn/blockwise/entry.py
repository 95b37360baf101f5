"""`prune_blocks`: a model of many like blocks pruned in place, or a directory of one into another."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.files.atomic import atomic_path
from tmask.nn.blockwise.blocks import find_blocks
from tmask.nn.blockwise.directory import Directory
from tmask.nn.blockwise.in_memory import InMemory
from tmask.nn.blockwise.pruning import BlockSettings, Goal
from tmask.nn.blockwise.report import BlockwiseReport, make_report
from tmask.nn.blockwise.tuning import Tuning
from tmask.nn.blockwise.walk import Progress, WalkSettings, walk
from tmask.nn.calibration.batches import Calibration, Forward
from tmask.nn.methods.method import Method
from tmask.nn.methods.registry import get_method
from tmask.nn.methods.support import Plain, Support, Transposable, Unstructured
from tmask.solving.solver import Solver

Patterns = Pattern | str | float | Mapping[str, Pattern | str]


def prune_blocks(
    model: nn.Module | str | Path,
    calibration: Iterable[Any],
    pattern: Patterns,
    *,
    output: str | Path | None = None,
    method: Method | str = "alps",
    transposable: bool = True,
    solver: Solver | str = "auto",
    goal: Goal = "dense",
    by_stage: bool = True,
    tuning: Tuning | None = None,
    blocks: str = "",
    exclude: Sequence[str] = (),
    memory: float = float("inf"),
    forward: Forward | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> BlockwiseReport:
    """Prune a language model, or any model whose work is done by a list of like blocks.

    Each block is run on the calibration data for what its matrices read, pruned, and run once more for what the next
    block reads: time grows with the number of blocks, and a directory is pruned in the memory of one block, the hidden
    states, and the second moments of one layer's inputs.

    Args:
        model: in memory, pruned in place; or the directory of a Hugging Face model, pruned into `output`.
        calibration: batches of the model's inputs that can be read again. Positions that a batch's `attention_mask`
            calls padding do not count.
        pattern: n kept of every m; patterns by the names of weights, which are then the only ones pruned; or a number,
            the density of unstructured masks.
        output: of a directory; it must not exist. Masks and report stand in its folder `tmask`.
        method: see `available_methods`; a name stands for the method with its default settings.
        transposable: along inputs and outputs; else along the inputs alone.
        solver: of transposable masks, as in `tmask.solve`.
        goal: "dense", what the dense model has at this place, so that each layer makes up for what those before it
            lost; "layer", what the dense layer gives on what the pruned model has here, which needs no dense model
            beside and takes about half the time.
        by_stage: take the statistics of each group of matrices (q k v, o, gate up, down) after those before it were
            pruned; else once for a block.
        tuning: gradient steps on each block's kept weights and norms after its matrices; None for none.
        blocks: name of the list of blocks, where it is not the longest one.
        exclude: globs on names of weights that stay dense.
        memory: bytes of hidden states to hold; the rest is mapped from temporary files.
        forward: how a batch goes through the model, called with both.
        dtype, device: in which, and on which, the blocks of a directory compute; None for the dtype of its files.
        progress: called with blocks done, their number, and the name of the next ("" at the end).
    Raises:
        InvalidProblemError: unusable data, settings or weights; names the matrix. A model in memory keeps what was
            done to the blocks before it; of a directory nothing is left under the name of the output, and the same
            call goes on at the block where it ended.
        UnknownSolverError, SolverUnavailableError, SolverFailedError, FileFormatError, OutputError.
    Cost: for each block about 4 passes of the dense and 4 of the pruned block (goal "dense", by stage), 2 passes
        (goal "layer", not by stage); S C^2 for the moments of C inputs on S samples, and that of the method.
    """
    begin = time.perf_counter()
    support, least = _support(pattern, transposable, solver)
    settings = WalkSettings(
        BlockSettings(get_method(method) if isinstance(method, str) else method, support, goal, by_stage),
        tuning,
        tuple(exclude),
        least,
        memory,
    )
    batches = _batches(calibration, forward)
    if isinstance(model, nn.Module):
        if output is not None:
            raise InvalidProblemError("output goes with a directory; a model in memory is pruned in place")
        source = InMemory(model, find_blocks(model, blocks))
        return make_report(model, walk(source, batches, settings, forward, progress), time.perf_counter() - begin)
    if output is None:
        raise InvalidProblemError(f"give output=, the directory to write; {model} itself stays as it is")
    job = {
        "model": str(Path(model).resolve()),
        "pattern": str(pattern),
        "transposable": transposable,
        "solver": str(solver),
        "settings": repr((settings.pruning.method, goal, by_stage, tuning, blocks, tuple(exclude), dtype)),
        "calibration": _digest(batches),
    }
    directory = Directory(Path(model), Path(output), job, blocks, dtype, device)
    done = walk(directory, batches, settings, forward, progress)
    report = make_report(directory.model, done, time.perf_counter() - begin)
    with atomic_path(directory.notes / "report.json") as temporary:
        temporary.write_text(json.dumps(report.document(), indent=1), encoding="utf-8")
    directory.finish()
    return report


def _support(
    pattern: Patterns, transposable: bool, solver: Solver | str
) -> tuple[Callable[[str], Support | None], tuple[int, int]]:
    """The masks allowed for a weight by its name, and the sides that a matrix must have at least."""
    if isinstance(pattern, float):
        unstructured = Unstructured(pattern)
        return lambda name: unstructured, (1, 1)

    def one(text: Pattern | str) -> Support:
        parsed = Pattern.parse(text)
        return Transposable(parsed, solver) if transposable else Plain(parsed)

    if not transposable and solver != "auto":
        raise InvalidProblemError("a solver finds transposable masks; plain ones are the best by sorting")
    if isinstance(pattern, Mapping):
        chosen = {str(name).removesuffix(".weight"): one(text) for name, text in pattern.items()}
        return lambda name: chosen.get(name.removesuffix(".weight")), (1, 1)
    whole, m = one(pattern), Pattern.parse(pattern).m
    return lambda name: whole, (m if transposable else 1, m)


def _batches(calibration: Iterable[Any], forward: Forward | None) -> list[Any]:
    """The batches held: token ids are small beside hidden states.

    Raises:
        InvalidProblemError: one tensor, an iterator, or nothing at all.
    """
    Calibration(calibration, forward)  # refuses what cannot be meant
    batches = list(calibration)
    if not batches:
        raise InvalidProblemError("calibration is empty; give at least one batch of inputs")
    return [_without_cache(batch) for batch in batches]


def _without_cache(batch: Any) -> Any:
    """The batch, with word to a language model not to fill a cache of keys and values."""
    return {"use_cache": False} | dict(batch) if isinstance(batch, Mapping) and "input_ids" in batch else batch


def _digest(batches: Sequence[Any]) -> str:
    """Of the tensors in the batches, so that a run is continued on the same data alone."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, Mapping):
            for key in sorted(value):
                digest.update(str(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        else:
            digest.update(repr(value).encode())

    add(list(batches))
    return digest.hexdigest()

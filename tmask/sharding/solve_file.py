"""A weight file solved in shards by workers of joblib: threads, processes, or a cluster that joblib knows."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidMaskError, InvalidProblemError, SolverUnavailableError
from tmask.files.atomic import check_output
from tmask.files.layers import Selection, select_layers
from tmask.files.masked_weights import check_masked_weights, write_masked_weights
from tmask.files.masks import write_masks
from tmask.files.opening import open_weights
from tmask.files.outputs.names import check_masks_name
from tmask.files.partial import PartialStore
from tmask.files.safetensors_files import check_names
from tmask.files.weight_file import WeightFile
from tmask.sharding.checking import check_record
from tmask.sharding.layer_run import LayerRun, share_of
from tmask.sharding.masked_shards import check_masked_shards, finish_with_weights, write_masked_shard
from tmask.sharding.merging import find_shards, index_path, open_shards, shard_path
from tmask.sharding.place import Place
from tmask.showing.progress import Progress, reporting
from tmask.solving.registry import get_solver
from tmask.solving.solver import Solver

log = logging.getLogger("tmask")


def solve_file(
    path: str | Path,
    pattern: Pattern | str,
    output: str | Path,
    solver: Solver | str = "auto",
    *,
    shards: int = 1,
    backend: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    groups: Mapping[str, int] | None = None,
    layouts: Mapping[str, str] | None = None,
    certify: bool = True,
    keep_zeros: bool = False,
    masked_weights: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = None,
) -> Path:
    """Masks for the layers of a weight file, written with their proofs, as `tmask solve` does.

    Args:
        path: weights, in a format that `tmask solve` takes; with shards, where every worker can read it.
        output: the mask file to write, `.safetensors`; with shards, where every worker can write.
        shards: more than 1 for as many mask files, solved by workers, and an index that is written when every proof has
            been checked. Layers are split by size; each worker computes the split alone.
        backend: of `joblib.Parallel`: "loky", "threading", "dask", "ray", ...; None for that of the surrounding
            `joblib.parallel_config`.
        include, exclude: globs of names.
        groups, layouts: of grouped convolutions, and of weights of three axes or more, by glob.
        certify, keep_zeros: as in `solve`.
        masked_weights: where to write the weights with masks applied too: a file in the format of its name, or a
            folder; with shards a folder, where every worker can write.
        overwrite: replace outputs that are there. Without it, shards that are there already are kept, and checked with
            the others: a failed run, started again, does what is missing.
        progress: layers within one process, or shards.
    Returns:
        The mask file, or the index.
    Raises:
        InvalidProblemError: more shards than layers, a filter that fits nothing, an unusable weight.
        FileFormatError: weights that cannot be read; shards of another run in the output's folder.
        OutputError: the output cannot be written, or exists.
        InvalidMaskError: a shard's proof fails.
        SolverUnavailableError: joblib, or the solver's library, is not installed.
    """
    # Absolute: a worker that was started before may stand in another folder.
    path, output = Path(path).absolute(), Path(output).absolute()
    task = _Task(
        path, Pattern.parse(pattern), output, None if solver == "auto" else _solver(solver), tuple(include),
        tuple(exclude), dict(groups or {}), dict(layouts or {}), certify, keep_zeros, overwrite,
        None if masked_weights is None else _absolute(masked_weights),
    )  # fmt: skip
    check_masks_name(output)
    if shards == 1:
        check_output(output, overwrite)
        task.check_masked(None)
        return task.solve(None, progress)
    check_output(index_path(output), overwrite)
    task.split(Place(1, shards))  # what is wrong with the weights or the choice is said here, and once
    folder = task.check_masked(Place(1, shards))
    _in_workers(task, shards, backend, progress)
    return _merged(task, folder, overwrite)


@dataclass(frozen=True, slots=True)
class _Task:
    """What all workers are told; each opens the file for itself."""

    path: Path
    pattern: Pattern
    output: Path
    solver: Solver | None
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    groups: dict[str, int]
    layouts: dict[str, str]
    certify: bool
    keep_zeros: bool
    overwrite: bool
    masked: str | None

    def check_masked(self, place: Place | None) -> Path | None:
        """The folder of shards' masked weights, if these can be written there; or whether a file's can."""
        if self.masked is None:
            return None
        source = open_weights(self.path)
        if place is not None:
            check_masked_shards(self.masked, source, self.overwrite, None)
            return Path(self.masked)
        check_masked_weights(self.masked, source, self.overwrite, self.path.is_dir())
        return None

    def split(self, place: Place | None) -> LayerRun:
        """The run of one place, or of all layers."""
        source = open_weights(self.path)
        selection = self._selection(source)
        check_names(layer.name for layer in selection.layers)
        if place is None or place.index == 1:
            for remark in selection.remarks:
                log.warning("%s", remark)
        output = self.output if place is None else shard_path(self.output, place)
        layers, of_shard = share_of(selection.layers, place, self.pattern.m)
        store = PartialStore(output)
        return LayerRun(source, layers, self.pattern, self.solver, self.certify, store, of_shard, self.keep_zeros)

    def _selection(self, source: WeightFile) -> Selection:
        return select_layers(
            source, self.include, self.exclude, groups=self.groups, layouts=self.layouts, side=self.pattern.m
        )

    def solve(self, place: Place | None, progress: Progress = None) -> Path:
        """One place's mask file, unless it is there."""
        output = self.output if place is None else shard_path(self.output, place)
        if place is not None and output.exists() and not self.overwrite:
            return output
        run = self.split(place)
        with reporting(progress, "solving") as tell:
            run.solve(tell)
        self._write_masked(run, place)
        # Last: where it is, the shard is done.
        write_masks(output, run.records, self.overwrite)
        run.store.discard()
        return output

    def _write_masked(self, run: LayerRun, place: Place | None) -> None:
        if self.masked is None:
            return
        if place is None:
            masks = {record.name: record.packed for record in run.records}
            write_masked_weights(self.masked, run.source, masks, self.overwrite, self.path.is_dir())
            return
        write_masked_shard(
            Path(self.masked), place, run.source, self._selection(run.source).layers, run.records, self.overwrite
        )


def _absolute(path: str | Path) -> str:
    """With the / at its end, which says that it is a folder."""
    text = os.fspath(path)
    return os.path.abspath(text) + ("/" if text.endswith(("/", os.sep)) else "")


def _solver(solver: Solver | str) -> Solver:
    return get_solver(solver) if isinstance(solver, str) else solver


def _in_workers(task: _Task, shards: int, backend: str | None, progress: Progress) -> None:
    parallel = _parallel(shards, backend)
    places = [Place(index, shards) for index in range(1, shards + 1)]
    with reporting(progress, "solving shards") as tell:
        tell(0, shards, "")
        for done, path in enumerate(parallel((task.solve, (place,), {}) for place in places), 1):
            tell(done, shards, path.name)


def _parallel(shards: int, backend: str | None) -> Any:
    try:
        import joblib
    except ImportError:
        advice = 'run: pip install "tmask[joblib]"'
        raise SolverUnavailableError(f"shards need joblib, not installed here; {advice}") from None
    # As many at once as there are shards, or as the surrounding configuration has.
    jobs = shards if backend is not None else None
    try:
        return joblib.Parallel(n_jobs=jobs, backend=backend, return_as="generator_unordered")
    except ValueError:  # not every backend hands results on as they come
        pass
    try:
        return joblib.Parallel(n_jobs=jobs, backend=backend)
    except ValueError as error:
        raise InvalidProblemError(f"backend {backend!r} is none of joblib's: {error}") from error


def _merged(task: _Task, folder: Path | None, overwrite: bool) -> Path:
    """The index, once every proof has been checked."""
    shards = open_shards(find_shards(task.output))
    source = open_weights(task.path)
    for path, records in shards.items():
        for record in records.values():
            if problem := check_record(record, source)["problem"]:
                raise InvalidMaskError(f"{path.name}: {record.name}: {problem}; remove that shard, and run again")
    return finish_with_weights(task.output, shards, source, folder, overwrite)[0]

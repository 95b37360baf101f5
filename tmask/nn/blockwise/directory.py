"""A Hugging Face directory as a source of blocks: the model is never loaded, one block at a time is.

The model stands on the meta device; a block's tensors are read from the shards, and written over the same bytes of a
copy of the shards. The copy is a folder beside the output until all is done. A run that was killed goes on at the first
block that is not noted in its journal.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tmask.errors import InvalidProblemError, OutputError
from tmask.files.atomic import atomic_path
from tmask.files.weight_file import WeightFile
from tmask.nn.blockwise.blocks import find_blocks
from tmask.nn.blockwise.blockwise_report import BlockwiseReport
from tmask.nn.blockwise.choice import MatrixChoice
from tmask.nn.blockwise.journal import Journal
from tmask.nn.blockwise.mask_files import Written, write_mask_files
from tmask.nn.blockwise.pruning import BlockPruning
from tmask.nn.blockwise.shards import Shards
from tmask.nn.blockwise.skeleton import open_model, put, skeleton
from tmask.nn.blockwise.stored import stored_parts
from tmask.nn.calibration.file_tensors import to_torch
from tmask.nn.distributed.ranks import Ranks, together

NOTES = "tmask"  # folder in the output with masks and report: readers of weights look no deeper than the output itself
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


class Directory:
    """Blocks of a model in a directory, pruned into another one.

    Args:
        path: of the model: config.json and safetensors.
        output: to make; must not exist.
        job: what is asked for; an unfinished output of another job is not continued.
        blocks: name of the list of blocks, "" to find it.
        dtype: in which blocks compute; None for that of the config.
        device: on which they do.
        ranks: the processes that prune it together: the first writes, the others read what it wrote.
    Raises:
        FileFormatError, InvalidProblemError: no such model; one whose files hold other tensors than its blocks have.
        OutputError: the output exists, or an unfinished one of another job.
    """

    def __init__(
        self,
        path: Path,
        output: Path,
        job: Mapping[str, Any],
        blocks: str = "",
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        ranks: Ranks | None = None,
    ) -> None:
        self.path, self.output, self.device, self._ranks = path, output, torch.device(device), ranks
        self._writes = ranks is None or ranks.index == 0
        if output.exists():
            raise OutputError(f"{output} exists already; choose another name, or remove it")
        self.model = skeleton(path, dtype, device)
        self.blocks_name = find_blocks(self.model, blocks)
        self._file = open_model(path)
        self._parts = stored_parts(self.model, self._file, self.blocks_name)
        self._tensors = self.model.state_dict(keep_vars=True)  # on the meta device, with the dtypes to compute in
        self._work = output.with_name(f"{output.name}.partial")
        self.notes = self._work / NOTES
        self._journal = Journal(self.notes)
        with together(ranks):
            if self._writes:
                self._begin(job)
        self._done = self._journal.read()
        self._written = open_model(self._work)
        self._shards = Shards(self._work, self._file)

    def _begin(self, job: Mapping[str, Any]) -> None:
        """Start the output, or go on with one of the same job."""
        if self._journal.path.exists():
            if not self._journal.is_of(job):
                raise OutputError(
                    f"{self._work} holds an unfinished run with other settings; finish that one, or remove the folder"
                )
            self._journal.mend()
            return
        shutil.rmtree(self._work, ignore_errors=True)  # its copy was not complete
        try:
            self.notes.mkdir(parents=True)
            for file in sorted(self.path.iterdir()):
                if file.is_file() and file.suffix not in _OTHER_WEIGHTS:
                    shutil.copyfile(file, self._work / file.name)
        except OSError as error:
            raise OutputError(f"cannot write {self._work}: {error.strerror or error}") from error
        self._journal.begin(job)

    @contextmanager
    def entering(self) -> Iterator[None]:
        """All that is in no block, and the first block, loaded; the head of the model is not needed."""
        get_head: Any = getattr(self.model, "get_output_embeddings", None)
        head = None if get_head is None else get_head()
        unused = {id(parameter) for parameter in head.parameters()} if isinstance(head, nn.Module) else set()
        get_embedding: Any = getattr(self.model, "get_input_embeddings", None)
        embedding = None if get_embedding is None else get_embedding()
        if isinstance(embedding, nn.Module):  # which may be the head's
            unused -= {id(parameter) for parameter in embedding.parameters()}
        inside = f"{self.blocks_name}."
        outside = {name: value for name, value in self._tensors.items() if not name.startswith(inside)}
        needed = {name: value for name, value in outside.items() if id(value) not in unused}
        found = {id(value) for name, value in needed.items() if name in self._parts}
        for name, value in needed.items():
            if value.is_meta and id(value) not in found:  # under no name at all
                raise InvalidProblemError(f"{self._file.path} holds no tensor for {name} {tuple(value.shape)}")
        with self._loaded([*(name for name in needed if name in self._parts), *self._of_block(0)], self._file):
            yield

    @contextmanager
    def block(self, index: int) -> Iterator[nn.Module]:
        with self._loaded(self._of_block(index), self._file):
            yield self.model.get_submodule(f"{self.blocks_name}.{index}")

    @contextmanager
    def pruned_block(self, index: int) -> Iterator[nn.Module]:
        with self._loaded(self._of_block(index), self._written):
            yield self.model.get_submodule(f"{self.blocks_name}.{index}")

    def stored(self, index: int) -> BlockPruning | None:
        return self._done.get(index)

    def store(self, index: int, done: BlockPruning) -> None:
        """Round the open block to what the files hold, write it, and note it."""
        prefix = f"{self.blocks_name}.{index}."
        written: dict[str, Tensor] = {}
        for name, parameter in self.model.get_submodule(prefix[:-1]).named_parameters():
            for part in self._parts[prefix + name]:
                own = part.of(parameter.data)
                written[part.name] = own.to(getattr(torch, self._file.dtypes[part.name]))
                own.copy_(written[part.name])
        if self._writes:
            self._shards.write(written)
            self._journal.add(index, done)

    def after_failure(self, index: int) -> str:
        return f"{self._work} holds the {index} blocks before; the same call goes on from there"

    def finish(self, report: BlockwiseReport, choice: MatrixChoice, job: str) -> None:
        """Write masks and report, and give the output its name.

        Args:
            choice: of the masks.
            job: how they were found, in words.
        """
        with together(self._ranks):  # nobody returns before the output is there
            if self._writes:
                self._finish(report, choice, job)

    def _finish(self, report: BlockwiseReport, choice: MatrixChoice, job: str) -> None:
        write_mask_files(self.notes, report.masks, report.rows, Written(self._written, self._parts, choice, job))
        with atomic_path(self.notes / "report.json") as temporary:
            temporary.write_text(json.dumps(report.document(), indent=1), encoding="utf-8")
        try:
            self._work.rename(self.output)
        except OSError as error:
            raise OutputError(f"cannot rename {self._work} to {self.output}: {error.strerror or error}") from error
        Journal(self.output / NOTES).remove()

    def _of_block(self, index: int) -> list[str]:
        inside = f"{self.blocks_name}.{index}."
        return [name for name in self._tensors if name.startswith(inside) and name in self._parts]

    @contextmanager
    def _loaded(self, names: Iterable[str], file: WeightFile) -> Iterator[None]:
        with put(self.model, {name: self._read(name, file) for name in names}):
            yield

    def _read(self, name: str, file: WeightFile) -> Tensor:
        like, parts = self._tensors[name], self._parts[name]
        if len(parts) == 1 and parts[0].shape == tuple(like.shape):
            value = to_torch(file.read(parts[0].name))
            return value.to(self.device, like.dtype if value.is_floating_point() else value.dtype)
        value = torch.empty(like.shape, dtype=like.dtype, device=self.device)
        for part in parts:
            part.of(value).copy_(to_torch(file.read(part.name)))
        return value


def fingerprint(path: Path) -> list[Any]:
    """Of a model's files without reading them: an output is not continued with another model's weights."""
    files = sorted(path.iterdir()) if path.is_dir() else []
    return [str(path.resolve()), *((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file())]

"""A Hugging Face directory as a source of blocks: the model is never loaded, one block at a time is.

The model stands on the meta device; a block's tensors are read from the shards, and written over the same bytes of a
copy of the shards. The copy is a folder beside the output until all is done. A run that was killed goes on at the first
block that is not noted in its journal.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tmask.errors import FileFormatError, InvalidProblemError, OutputError
from tmask.files.atomic import atomic_path
from tmask.files.safetensors_files import INDEX
from tmask.files.tensors import contents
from tmask.files.weights import WeightFile, open_weights
from tmask.nn.blockwise.blocks import find_blocks
from tmask.nn.blockwise.masks import PackedMasks
from tmask.nn.blockwise.pruning import BlockPruning, MatrixPruning
from tmask.nn.calibration.file_tensors import to_torch

NOTES = "tmask"  # folder in the output with masks and report: readers of weights look no deeper than the output itself
_JOURNAL = "progress.jsonl"
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


class Directory:
    """Blocks of a model in a directory, pruned into another one.

    Args:
        path: of the model: config.json and safetensors.
        output: to make; must not exist.
        job: what is asked for; an unfinished output of another job is not continued.
        blocks: name of the list of blocks, "" to find it.
        dtype: in which blocks compute; None for that of the files.
        device: on which they do.
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
    ) -> None:
        self.path, self.output = path, output
        self.dtype, self.device = dtype, torch.device(device)
        self.model = skeleton(path)
        self.blocks_name = find_blocks(self.model, blocks)
        self._file = open_weights(_weights(path))
        self._names = _stored_names(self.model, self._file, self.blocks_name)
        self._work = output.with_name(f"{output.name}.partial")
        self._done: dict[int, BlockPruning] = {}
        self._begin(hashlib.sha256(json.dumps(dict(job), sort_keys=True).encode()).hexdigest())

    @property
    def notes(self) -> Path:
        """The folder for what goes beside the weights."""
        return self._work / NOTES

    def _begin(self, job: str) -> None:
        """Start the output, or go on with one of the same job."""
        if self.output.exists():
            raise OutputError(f"{self.output} exists already; choose another name, or remove it")
        journal = self.notes / _JOURNAL
        if journal.exists():
            first, *lines = journal.read_text(encoding="utf-8").splitlines()
            if json.loads(first)["job"] != job:
                raise OutputError(
                    f"{self._work} holds an unfinished run with other settings; finish that one, or remove the folder"
                )
            for line in lines:
                if (known := _line(line)) is not None:
                    index, done = known
                    done.masks = PackedMasks.load(self._masks_of(index))
                    self._done[index] = done
            return
        shutil.rmtree(self._work, ignore_errors=True)  # its copy was not complete
        try:
            self.notes.mkdir(parents=True)
            for file in sorted(self.path.iterdir()):
                if file.is_file() and file.suffix not in _OTHER_WEIGHTS:
                    shutil.copyfile(file, self._work / file.name)
        except OSError as error:
            raise OutputError(f"cannot write {self._work}: {error.strerror or error}") from error
        with atomic_path(journal) as temporary:
            temporary.write_text(json.dumps({"job": job}) + "\n", encoding="utf-8")

    @contextmanager
    def entering(self) -> Iterator[None]:
        """All that is in no block, and the first block, loaded; the head of the model is not needed."""
        get_head: Any = getattr(self.model, "get_output_embeddings", None)
        head = None if get_head is None else get_head()
        own = {id(parameter) for parameter in head.parameters()} if isinstance(head, nn.Module) else set()
        tied = bool(getattr(self.model.config, "tie_word_embeddings", False))
        inside = f"{self.blocks_name}."
        names = [
            name
            for name, parameter in self.model.named_parameters(remove_duplicate=False)
            if name in self._names
            and (not name.startswith(inside) or name.startswith(f"{inside}0."))
            and (tied or id(parameter) not in own)
        ]
        with self._loaded(names, self._file):
            yield

    @contextmanager
    def block(self, index: int) -> Iterator[nn.Module]:
        with self._loaded(self._of_block(index), self._file):
            yield self.model.get_submodule(f"{self.blocks_name}.{index}")

    @contextmanager
    def pruned_block(self, index: int) -> Iterator[nn.Module]:
        with self._loaded(self._of_block(index), open_weights(_weights(self._work))):
            yield self.model.get_submodule(f"{self.blocks_name}.{index}")

    def stored(self, index: int) -> BlockPruning | None:
        return self._done.get(index)

    def store(self, index: int, done: BlockPruning) -> None:
        """Round the open block to what the files hold, write it, and note it."""
        state = dict(self.model.named_parameters())
        shards = _Shards(self._work, self._file)
        for name in self._of_block(index):
            parameter, stored = state[name], self._names[name]
            rounded = parameter.detach().to(getattr(torch, self._file.dtypes[stored]))
            shards.write(stored, rounded)
            parameter.data.copy_(rounded)
        PackedMasks(done.masks).save(self._masks_of(index))
        line = {"block": index, "rows": [dataclasses.asdict(row) for row in done.rows], "skipped": done.skipped}
        with (self.notes / _JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(line) + "\n")

    def finish(self) -> None:
        """Give the output its name."""
        (self.notes / _JOURNAL).unlink()
        self._work.rename(self.output)

    def _masks_of(self, index: int) -> Path:
        return self.notes / f"masks-{index:05}.npz"

    def _of_block(self, index: int) -> list[str]:
        inside = f"{self.blocks_name}.{index}."
        return [name for name, _ in self.model.named_parameters() if name.startswith(inside)]

    @contextmanager
    def _loaded(self, names: list[str], file: WeightFile) -> Iterator[None]:
        from accelerate.utils import set_module_tensor_to_device

        try:
            for name in names:
                value = to_torch(file.read(self._names[name]))
                value = value if self.dtype is None else value.to(self.dtype)
                set_module_tensor_to_device(self.model, name, self.device, value=value, dtype=value.dtype)
            yield
        finally:
            for name in names:
                set_module_tensor_to_device(self.model, name, "meta")


def skeleton(path: Path) -> nn.Module:
    """The model of a directory's config, its parameters on the meta device, its buffers as they are made.

    Raises:
        FileFormatError: no config, or one that is not of a language model that transformers knows.
        InvalidProblemError: a quantised model.
    """
    if not (path / "config.json").is_file():
        raise FileFormatError(f"{path} has no config.json; give the directory of a Hugging Face model")
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(path)
        if getattr(config, "quantization_config", None):
            raise InvalidProblemError(
                f"{path} is a quantised model: its files hold codes, not weights. Prune the model that it was made "
                "from, then quantise the result"
            )
        with init_empty_weights(include_buffers=False):
            model: nn.Module = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, InvalidProblemError):
            raise
        raise FileFormatError(f"{path}: transformers makes no language model of its config: {error}") from error
    return model.eval()


def _weights(path: Path) -> Path:
    indexes, files = sorted(path.glob(f"*{INDEX}")), sorted(path.glob("*.safetensors"))
    found = indexes or files
    if len(found) != 1:
        raise FileFormatError(
            f"{path} has {len(found) or 'no'} safetensors files or indexes; it must have model.safetensors, or shards "
            "with one index. Other formats: load the model and save it again with save_pretrained"
        )
    return found[0]


def _stored_names(model: nn.Module, file: WeightFile, blocks_name: str) -> dict[str, str]:
    """The names in the files by those in the model, which may have a prefix more or less.

    Raises:
        InvalidProblemError: a parameter of a block that the files do not have, or have in another shape.
    """
    prefix = str(getattr(model, "base_model_prefix", ""))
    names = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        candidates = (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}")
        stored = next((candidate for candidate in candidates if candidate in file.shapes), None)
        if stored is not None and file.shapes[stored] == tuple(parameter.shape):
            names[name] = stored
        elif name.startswith(f"{blocks_name}."):
            raise InvalidProblemError(
                f"{file.path} holds no tensor for {name} {tuple(parameter.shape)}: this model is stored in another "
                "form than it computes in. Load it with from_pretrained, call tmask.nn.prune_blocks on it, and save it "
                "with save_pretrained"
            )
    return names


class _Shards:
    """Tensors of a copied model, written over where they lie: the same dtype and shape take the same bytes."""

    def __init__(self, folder: Path, source: WeightFile) -> None:
        self._folder = folder
        if source.path.name.endswith(INDEX):
            self._where = json.loads(source.path.read_text(encoding="utf-8"))["weight_map"]
        else:
            self._where = dict.fromkeys(source.names, source.path.name)

    def write(self, name: str, tensor: Tensor) -> None:
        path = self._folder / self._where[name]
        with path.open("r+b") as file:
            size = int.from_bytes(file.read(8), "little")
            start, end = json.loads(file.read(size))[name]["data_offsets"]
            data = contents(tensor.contiguous().cpu().view(torch.uint8).numpy())
            if len(data) != end - start:
                raise FileFormatError(f"{path}: {name} takes {end - start} bytes there, not {len(data)}")
            file.seek(8 + size + start)
            file.write(data)


def _line(text: str) -> tuple[int, BlockPruning] | None:
    """A block of the journal; None for a line that was cut off."""
    try:
        known = json.loads(text)
    except json.JSONDecodeError:
        return None
    rows = [MatrixPruning(**{**row, "shape": tuple(row["shape"])}) for row in known["rows"]]
    return known["block"], BlockPruning(rows, PackedMasks(), known["skipped"])

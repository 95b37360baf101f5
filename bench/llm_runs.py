"""One row of `bench.llm`: a language model pruned and measured, in a process that does nothing else."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import tmask
from bench.processes import host_peak
from tmask.nn import BlockRefit, BlockwiseReport, Tuning, get_method, prune_blocks
from tmask.nn.blockwise.blocks import find_blocks
from tmask.nn.blockwise.skeleton import skeleton
from tmask.nn.calibration.language_models import load_language_model, share_of_zeros
from tmask.nn.calibration.perplexity import choose_windows, perplexity
from tmask.nn.calibration.text import Batch, calibration_text, load_tokenizer, read_documents, tokenise

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Job:
    """What is done to the model.

    Args:
        row: the method's name in the table.
        target: "unstructured 50%", "plain 2:4", "transposable 2:4", ...
        solver: of transposable masks.
        goal: see `prune_blocks`.
        seed: of the calibration samples.
        samples, length: of the calibration text, and tokens in each.
        method, settings: see `get_method`.
        epochs: of tuning each block after its matrices; 0 for none.
        block_refit: whether what is missing behind attention and MLP is fitted.
    """

    row: str
    target: str
    solver: str
    goal: Any
    seed: int
    samples: int
    length: int
    method: str = "alps"
    settings: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 0
    block_refit: bool = False

    def key(self) -> dict[str, str]:
        """What tells its row from others."""
        names = ("target", "solver", "goal", "seed", "samples", "length")
        return {"method": self.row} | {name: str(getattr(self, name)) for name in names}

    @property
    def pattern(self) -> str | float:
        """As `prune_blocks` takes it."""
        if share := re.fullmatch(r"unstructured (\d+)%", self.target):
            return int(share[1]) / 100
        return self.target.split()[1]


@dataclass(frozen=True, slots=True)
class Text:
    """A text cut in two: to calibrate on, and to be measured on.

    Args:
        name: of the file, with the beginning of its hash.
        calibration, evaluation: files with the two parts.
        windows: disjoint ones to be measured on; as many as there are, if they are fewer.
    """

    name: str
    calibration: Path
    evaluation: Path
    windows: int

    @classmethod
    def cut(cls, path: Path, folder: Path, share: float, windows: int) -> Text:
        """At the first end of a line after a share of the text."""
        (whole,) = read_documents(path)
        end = whole.find("\n", int(share * len(whole))) + 1 or int(share * len(whole))
        parts = folder / "calibration.txt", folder / "evaluation.txt"
        for part, content in zip(parts, (whole[:end], whole[end:]), strict=True):
            part.write_text(content, encoding="utf-8")
        digest = hashlib.sha256(whole.encode()).hexdigest()[:12]
        return cls(f"{path.name} {digest}", *parts, windows)


def run(job: Job, model: Path, output: Path, tokenizer: Path, text: Text, device: str, judge: bool) -> dict[str, Any]:
    """Prune a model into a directory, which is removed again, and measure.

    Args:
        output: the directory to make.
        tokenizer: directory of the tokenizer, which a part of a model may lack.
        judge: whether to take the pruned model's perplexity.
    """
    batches = calibrate(job, tokenizer, text)
    _warm(job)
    before = peak_memory("cpu")
    begin = time.perf_counter()
    report = prune(job, model, output, batches, device)
    seconds = time.perf_counter() - begin
    row = {
        "perplexity": "",
        "error_mean": report.error,
        "density": float(np.mean([one.density for one in report.rows])),
        "gap_max": max((one.optimality_gap for one in report.rows if one.optimality_gap is not None), default=""),
        "matrices": len(report.rows),
        "seconds": seconds,
        "peak_mib": peak_memory(device),
        "before_mib": before,
        **_sizes(model, job),
        "zeros": "",
        "windows": text.windows,
    }
    if judge:
        loaded = load_language_model(output, torch.float32, device)
        row["perplexity"], row["zeros"] = perplexity_of(loaded, tokenizer, text, job.length), share_of_zeros(loaded)
    shutil.rmtree(output)
    return row


def calibrate(job: Job, tokenizer: Path, text: Text) -> list[Batch]:
    """The samples to prune on."""
    return calibration_text(text.calibration, tokenizer, samples=job.samples, length=job.length, seed=job.seed, batch=2)


def prune(job: Job, model: Path, output: Path, batches: list[Batch], device: str) -> BlockwiseReport:
    """Prune a model's directory into another."""
    return prune_blocks(
        model,
        [{key: value.to(device) for key, value in batch.items()} for batch in batches],
        job.pattern,
        output=output,
        method=get_method(job.method, **job.settings),
        transposable=job.target.startswith("transposable"),
        solver=job.solver,
        goal=job.goal,
        block_refit=BlockRefit() if job.block_refit else None,
        tuning=Tuning(job.epochs) if job.epochs else None,
        dtype=torch.float32,
        device=device,
    )


def dense_perplexity(model: Path, tokenizer: Path, text: Text, length: int, device: str) -> float:
    """Of the model as it is."""
    return perplexity_of(load_language_model(model, torch.float32, device), tokenizer, text, length)


def perplexity_of(model: nn.Module, tokenizer: Path, text: Text, length: int) -> float:
    """On the part of the text that is for evaluation."""
    tokens = torch.cat(tokenise(read_documents(text.evaluation), load_tokenizer(tokenizer)))
    count = min(text.windows, len(tokens) // length)
    # One draw for all rows: differences between them are not of the windows.
    return perplexity(model, tokens, choose_windows(len(tokens), length, count=count, seed=0)).value


def _warm(job: Job) -> None:
    """Compiled kernels loaded, which is no time of the pruning."""
    if job.target.startswith("transposable"):
        scores = np.random.default_rng(0).random((64, 64), dtype=np.float32)
        tmask.solve(torch.from_numpy(scores), str(job.pattern), job.solver)


def _sizes(model: Path, job: Job) -> dict[str, float]:
    """Of the model's files, of one block in float32, and of the hidden states that are held."""
    frame: Any = skeleton(model)
    block = next(iter(frame.get_submodule(find_blocks(frame))))
    sets = (
        2 if job.goal == "dense" or job.epochs or job.block_refit else 1
    )  # of the pruned model, and of the dense one beside it
    return {
        "model_mib": sum(file.stat().st_size for file in model.glob("*.safetensors")) / _MIB,
        "block_mib": sum(parameter.numel() for parameter in block.parameters()) * 4 / _MIB,
        "states_mib": sets * job.samples * job.length * frame.config.hidden_size * 4 / _MIB,
    }


def peak_memory(device: str) -> float:
    """MiB that this process, or its part of a GPU, has held at most."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / _MIB
    return host_peak()

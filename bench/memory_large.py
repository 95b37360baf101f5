"""One large checkpoint in shards, solved under a limit of the address space."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from bench.processes import run_command

PATTERN = "4:8"
_MIB = 2**20
_LAYERS_A_SHARD = 2


def measure_large(gigabytes: float, side: int, limit_mib: int, folder: Path) -> dict[str, Any]:
    """A row for `solve` on a checkpoint of so many gigabytes, which is made in the folder, and removed.

    Raises:
        OSError: the disk has no room for it.
        CalledProcessError: the command fails, as it does at the limit.
    """
    layers = max(1, round(gigabytes * 1e9 / (side * side * 4)))
    needed = layers * side * side * 4
    if shutil.disk_usage(folder).free < 1.2 * needed:
        raise OSError(f"{folder} has no room for {needed / 1e9:.1f} GB and what comes beside")
    model = folder / "model"
    size = _write(model, layers, side)
    cost = run_command(["solve", str(model), "-p", PATTERN, "-o", str(folder / "masks.safetensors")], limit_mib)
    shutil.rmtree(model)
    print(f"solve, {size / 1e9:.2f} GB in shards: {cost.peak_mib:.0f} MiB, {cost.seconds:.1f} s", flush=True)
    return {
        "command": "solve", "layers": layers, "side": side, "pattern": PATTERN, "gigabytes": size / 1e9,
        "limit_mib": limit_mib, "masks_mib": layers * side * side / 8 / _MIB,
    } | asdict(cost)  # fmt: skip


def _write(model: Path, layers: int, side: int) -> int:
    """Shards and their index, as large models come; returns their bytes."""
    model.mkdir()
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((side, side), dtype=np.float32)
    where: dict[str, str] = {}
    for first in range(0, layers, _LAYERS_A_SHARD):
        shard = f"model-{first // _LAYERS_A_SHARD + 1:05}.safetensors"
        # Rolled, which is quicker than drawing anew, and as different to a solver.
        tensors = {
            f"layers.{layer}.weight": np.roll(weight, 7919 * layer)
            for layer in range(first, min(layers, first + _LAYERS_A_SHARD))
        }
        save_file(tensors, model / shard)
        where |= dict.fromkeys(tensors, shard)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return sum(path.stat().st_size for path in model.glob("*.safetensors"))


def large_text(rows: list[dict[str, Any]]) -> str:
    """What the rows say, for the page; nothing without any."""
    return "".join(
        f"A checkpoint of {float(row['gigabytes']):.1f} GB in shards ({row['layers']} layers of {row['side']} x "
        f"{row['side']} float32, {row['pattern']}), solved under `ulimit -v` of {row['limit_mib']} MiB: "
        f"{float(row['seconds']):.0f} s, peak {float(row['peak_mib']):.0f} MiB, of which {float(row['masks_mib']):.0f} "
        f"are masks (`memory_large.csv`, commit {row['commit']}, {row['cpu']}, threads: {row['threads']}, "
        f"{row['date'][:10]}).\n\n"
        for row in rows
    )

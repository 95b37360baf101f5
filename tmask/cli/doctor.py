"""`tmask doctor`: what this machine can accelerate, and whether it pays."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

from tmask.cli.console import note, progress_bar
from tmask.cli.exit_codes import reports_errors
from tmask.cli.options import Exclude, Groups, Include, Json, Layouts, Regex, Verbose
from tmask.cli.output import Row, show_json, show_table
from tmask.cli.selection import counted, select
from tmask.errors import InvalidProblemError, SolverUnavailableError
from tmask.files.layers import Selection
from tmask.files.opening import open_weights
from tmask.showing.numbers import number

if TYPE_CHECKING:
    from tmask.nn.packing.doctor import Diagnosis
    from tmask.nn.packing.machine import Machine

# What is looked at where nothing is named.
_SHAPES = ("1024x1024", "4096x4096", "4096x16384")


@reports_errors
def doctor(
    model: Annotated[Path | None, typer.Argument(help="A weight file, for the layers in it.")] = None,
    shape: Annotated[list[str], typer.Option("--shape", help="OUTxIN of a linear layer (repeatable).")] = [],  # noqa: B006
    tokens: Annotated[list[int], typer.Option("--tokens", help="Tokens in a batch, to time (repeatable).")] = [  # noqa: B006
        1024,
        8192,
    ],
    dtype: Annotated[str, typer.Option(help="That layers multiply in: bfloat16, float16 or float32.")] = "bfloat16",
    include: Include = [],  # noqa: B006
    exclude: Exclude = [],  # noqa: B006
    regex: Regex = False,
    groups: Groups = [],  # noqa: B006
    layouts: Layouts = [],  # noqa: B006
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Which layers 2:4 kernels can accelerate here, how fast they are against dense ones, and from how many tokens.

    A step is forward, backward and packing the weight once. Without a GPU nothing is measured: it says so, and where
    the layers would be eligible.
    """
    if importlib.util.find_spec("torch") is None:
        raise SolverUnavailableError(
            '`tmask doctor` asks torch, which is not installed here; run: pip install "tmask[torch]"'
        )
    # Late, since they import torch.
    from tmask.nn.packing.doctor import diagnose
    from tmask.nn.packing.machine import around_products, default_device, examine, kernels

    selection = _selection(model, include, exclude, regex, groups, layouts)
    layers = [(layer.name, layer.shape) for layer in selection.layers] + _shapes(shape, model)
    read_as = {layer.name: layer.read_as for layer in selection.layers}
    skipped = selection.skipped
    device = default_device()
    machine = examine(device)
    results: list[Diagnosis] = []
    text = TextColumn("{task.description}", markup=False)
    with progress_bar(text, BarColumn(), MofNCompleteColumn(), TextColumn("layers")) as bar:
        task = bar.add_task("", total=len(layers))
        for result in diagnose(layers, dtype, device, tokens):
            results.append(result)
            bar.update(task, description=result.name, advance=1)
    if json:
        document = {
            "machine": asdict(machine),
            "kernels": kernels(device),
            "dtype": dtype,
            "layers": [_document(result, read_as.get(result.name, "matrix")) for result in results],
            "skipped": [asdict(item) for item in skipped],
        }
        show_json(document)
        return
    show_table("This machine", _machine_rows(machine), texts=("what", "found"))
    show_table("2:4 kernels", kernels(device), texts=("kernels", "run on", "not here because"))
    if measured := [result for result in results if result.timings]:
        show_table(f"Measured, {dtype}, milliseconds (median)", _timing_rows(measured), texts=("layer", "a step"))
        show_table("A whole step, milliseconds", _auto_rows(measured), texts=("layer", "auto takes", "in a graph"))
    show_table("Layers", _layer_rows(results, read_as), texts=("layer", "read as", "verdict", "eligible for"))
    if text_around := around_products(machine):
        note(text_around)
    if model is not None:
        note(
            "layers are judged by name and shape; sparsify packs nn.Linear alone, not the Conv1D of GPT-2, and its "
            "report says of each layer of a model what it does"
        )
    for remark in selection.remarks:
        note(remark)
    if skipped:
        why = {item.name: item.reason for item in skipped}
        note(f"{len(why)} tensors were left out: {counted(why, verbose)}")
    if machine.problem:
        where = "there is no CUDA device here" if device.type == "cpu" else machine.problem
        note(f"nothing was measured: {where}")


def _selection(
    model: Path | None,
    include: Sequence[str],
    exclude: Sequence[str],
    regex: bool,
    groups: list[str],
    layouts: list[str],
) -> Selection:
    """The layers of the file, if there is one."""
    if model is None:
        if include or exclude or regex or groups or layouts:
            raise InvalidProblemError(
                "--include, --exclude, --regex, --groups and --layout choose layers of a file; name the file"
            )
        return Selection([], [])
    return select(open_weights(model), include, exclude, regex, groups, layouts)


def _shapes(texts: Sequence[str], model: Path | None) -> list[tuple[str, tuple[int, ...]]]:
    """Layers that shapes stand for; usual ones where nothing is named."""
    layers: list[tuple[str, tuple[int, ...]]] = []
    for text in texts or (() if model is not None else _SHAPES):
        if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
            raise InvalidProblemError(f"--shape {text!r}: write it as OUTxIN, for example 4096x11008")
        rows, cols = map(int, text.split("x"))
        layers.append((text, (rows, cols)))
    return layers


def _document(result: Diagnosis, read_as: str) -> dict[str, Any]:
    timings = [
        {"tokens": timing.tokens}
        | {f"{name}_seconds": value for name, value in asdict(timing).items() if name != "tokens"}
        | {"speed_up": timing.speed_up}
        for timing in result.timings
    ]
    return {
        "layer": result.name,
        "shape": list(result.shape),
        "read_as": read_as,
        "route": result.route,
        "eligible_here": bool(result.route),
        "eligible_for": list(result.eligible_for),
        "verdict": result.verdict,
        "timings": timings,
        "graphs": [asdict(graph) for graph in result.graphs],
        "break_even_tokens": result.break_even,
    }


def _machine_rows(machine: Machine) -> list[Row]:
    device = f"{machine.device}, compute capability {machine.capability}" if machine.capability else machine.device
    found = {
        "device": device,
        "torch": machine.torch,
        "CUDA": machine.cuda or "none",
        "cuSPARSELt": _dotted(machine.cusparselt) or "none",
        "2:4 kernels": machine.route or "none that runs here",
    }
    return [{"what": what, "found": text} for what, text in found.items()]


def _dotted(version: str) -> str:
    """cuSPARSELt's version, which torch gives as one number: 802 for 0.8.2."""
    if not version.isdigit():
        return version
    major, rest = divmod(int(version), 1000)
    return f"{major}.{rest // 100}.{rest % 100}"


def _timing_rows(results: Sequence[Diagnosis]) -> list[Row]:
    return [
        {
            "layer": result.name,
            "tokens": str(timing.tokens),
            "fwd dense": number(1e3 * timing.dense_forward),
            "fwd sparse": number(1e3 * timing.sparse_forward),
            "bwd dense": number(1e3 * timing.dense_backward),
            "bwd sparse": number(1e3 * timing.sparse_backward),
            "packing": number(1e3 * timing.pack),
            "a step": f"{timing.speed_up:.2f}x" + ("" if timing.speed_up >= 1 else ", not worth it here"),
        }
        for result in results
        for timing in result.timings
    ]


def _auto_rows(results: Sequence[Diagnosis]) -> list[Row]:
    """Dense, masked and packed, as they are and in a CUDA graph, and what backend "auto" would take of each."""
    from tmask.nn.packing.payoff import faster  # late, since it imports torch

    def taken(sparse: float, masked: float) -> str:
        return "packed" if faster(sparse, masked) else "masked"

    rows: list[Row] = []
    for result in results:
        graphs = {graph.tokens: graph for graph in result.graphs}
        for timing in result.timings:
            graph = graphs.get(timing.tokens)
            rows.append(
                {
                    "layer": result.name,
                    "tokens": str(timing.tokens),
                    "dense": number(1e3 * timing.dense),
                    "masked": number(1e3 * timing.masked),
                    "packed": number(1e3 * timing.sparse),
                    "auto takes": taken(timing.sparse, timing.masked),
                    "graph: dense": number(1e3 * graph.dense) if graph else "-",
                    "masked ": number(1e3 * graph.masked) if graph else "-",
                    "packed ": number(1e3 * graph.sparse) if graph else "-",
                    "in a graph": taken(graph.sparse, graph.masked) if graph else "-",
                }
            )
    return rows


def _layer_rows(results: Sequence[Diagnosis], read_as: Mapping[str, str]) -> list[Row]:
    return [
        {
            "layer": result.name,
            "shape": "x".join(map(str, result.shape)),
            "read as": read_as.get(result.name, "matrix"),
            "verdict": result.verdict,
            "eligible for": ", ".join(result.eligible_for) or "nothing",
        }
        for result in results
    ]

"""Whether a packed product is worth it, by measurement: GPU, torch and shape decide it, and no rule foresees it."""

from __future__ import annotations

import logging
import warnings

import torch

from tmask.nn.packing import remembered
from tmask.nn.packing.graph_timing import measure_graphs
from tmask.nn.packing.routes import Route
from tmask.nn.packing.support import find_fitting
from tmask.nn.packing.timing import measure_linear
from tmask.nn.packing.verification import verify
from tmask.version import __version__

log = logging.getLogger("tmask")

TOKENS = 8192  # in a batch, where nobody says how many

_NOISE = 0.02  # of a time; what is faster by less may be slower the next time

# A model has a handful of shapes, and a measurement takes seconds.
_paid: dict[tuple[tuple[int, ...], torch.dtype, torch.device, int, bool], tuple[bool, str]] = {}


def pays(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device | str,
    tokens: int = TOKENS,
    graphs: bool = False,
) -> tuple[bool, str]:
    """Whether a step with the packed weight is faster than with the dense masked one, and by what measurement.

    A step is forward, backward and one packing, for this many tokens; verified, then measured once and kept on disk.

    Args:
        graphs: whether steps run in a CUDA graph, and so are measured in one.

    Raises:
        InvalidProblemError: the weight is not supported.
    """
    device = torch.device(device)
    key = tuple(shape), dtype, device, tokens, graphs
    if key not in _paid:
        _paid[key] = _known(find_fitting(shape, dtype, device), *key)
    return _paid[key]


def faster(sparse: float, masked: float) -> bool:
    """Whether a packed step of so many seconds beats a masked one by more than the noise."""
    return sparse < (1 - _NOISE) * masked


def _known(
    route: Route, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, tokens: int, graphs: bool
) -> tuple[bool, str]:
    """From disk, or measured; what could not be measured is tried again in the next process."""
    mode = "graph" if graphs else "eager"
    # With our own version: what packs and multiplies is ours in part. Its number is of what is measured: 2 adds the
    # packing that follows each step to a graph.
    key = remembered.key_of("payoff 2", device, __version__, route.name, shape, dtype, tokens, mode)
    known = remembered.recall(key, device)
    if isinstance(known, list) and list(map(type, known)) == [bool, str]:
        return known[0], known[1]
    pays, text, complete = _measured(route, shape, dtype, device, tokens, graphs)
    log.info("%dx%d: %s", *shape, text)
    if complete:
        remembered.keep(key, [pays, text], device)
    return pays, text


def _measured(
    route: Route, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, tokens: int, graphs: bool
) -> tuple[bool, str, bool]:
    """Whether it pays, by which times, and whether there are any."""
    rows, cols = shape
    try:
        verify(route, (rows, cols), dtype, device)
        if graphs:
            whole = measure_graphs(route, (rows, cols), dtype, device, tokens)
            sparse, masked, parts = whole.sparse, whole.masked, "in a graph"
        else:
            timing = measure_linear(route, (rows, cols), dtype, device, tokens)
            sparse, masked = timing.sparse, timing.masked
            parts = f"({1e3 * timing.pack:.3g} of them packing)"
    except torch.cuda.OutOfMemoryError as error:
        return False, f"no memory to measure it with {tokens} tokens ({error})", False
    except RuntimeError as error:  # wrong products, or whatever a private operator raises
        # A warning: nobody has asked for this kernel by name, and training can go on without it.
        warnings.warn(f"masked products instead of packed ones: {error}", RuntimeWarning, stacklevel=2)
        return False, str(error), False
    # Against the masked product, which the layer runs otherwise; a dense one is not to be had under a mask.
    text = f"{route.name}: {1e3 * sparse:.3g} ms packed {parts} against {1e3 * masked:.3g} ms masked"
    return faster(sparse, masked), f"{text}, measured with {tokens} tokens", True

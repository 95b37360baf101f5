"""What was measured on a device, kept in one small file for later processes.

It lies where numba's compiled kernels do: in NUMBA_CACHE_DIR, or in this package's `__pycache__`. A file that is
damaged, or cannot be written, costs time alone: what it should hold is measured again.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch

from tmask.errors import OutputError
from tmask.files.atomic import atomic_path

log = logging.getLogger("tmask")

DEVICES = ("cuda",)  # whose measurements are worth keeping
_said: set[str] = set()


def key_of(what: str, device: torch.device, *parts: object) -> str:
    """What a measurement depends on, as one line: the device by its name, and the libraries' versions too."""
    gpu = device.type == "cuda" and torch.cuda.is_available()
    name = torch.cuda.get_device_name(device) if gpu else device.type
    library = getattr(torch.backends, "cusparselt", None)  # since torch 2.5
    version = library.version() if library is not None and library.is_available() else None
    return " | ".join(map(str, (what, name, torch.__version__, f"cusparselt {version}", *parts)))


def recall(key: str, device: torch.device) -> Any:
    """What was kept under this key, or None."""
    return _read().get(key) if device.type in DEVICES else None


def keep(key: str, value: Any, device: torch.device) -> None:
    """Keep a value of JSON's types. Of two processes that write at once, one may lose its value, never the file."""
    if device.type not in DEVICES:
        return
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**_read(), key: value}, indent=1, sort_keys=True)
        with atomic_path(path) as temporary:
            temporary.write_text(text)
    except (OSError, OutputError) as error:
        if str(path) not in _said:
            _said.add(str(path))
            log.warning("measurements cannot be kept in %s (%s): each process makes them again", path, error)


def _path() -> Path:
    folder = os.environ.get("NUMBA_CACHE_DIR")
    return (Path(folder) if folder else Path(__file__).parents[2] / "__pycache__") / "tmask-measured.json"


def _read() -> dict[str, Any]:
    try:
        found = json.loads(_path().read_text())
    except (OSError, ValueError):  # none yet, or damaged
        return {}
    return found if isinstance(found, dict) else {}

"""The convolutions of the model that a file's config describes, with their groups: no file holds these.

The model is made without memory for its weights, by transformers; what a module says of itself holds for the tensor of
its name and shape.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tmask.files.damage import DAMAGE
from tmask.files.weight_file import WeightFile

log = logging.getLogger("tmask")

# Entries of a config that say how many parts of a kind a model has.
_COUNTS = re.compile(r"layer|depth|expert|stage|block")


def model_convolutions(file: WeightFile) -> dict[str, int]:
    """Groups by the names of the file's tensors that are weights of convolutions; empty where no model can be made."""
    folder = file.path.parent
    if importlib.util.find_spec("transformers") is None or not _is_small(folder / "config.json", len(file.names)):
        return {}
    try:
        model = _skeleton(folder)
    except Exception as error:  # of another library, about a config that any program may have written
        log.info("the config beside %s makes no model of transformers: %s", file.path.name, str(error).split("\n")[0])
        return {}
    known, tensors = dict(_convolutions(model)), model.state_dict().keys()
    of_shape: dict[tuple[int, ...], set[int]] = {}
    for shape, groups in known.values():
        of_shape.setdefault(shape, set()).add(groups)
    prefix = f"{model.base_model_prefix}."  # of the same model with a head, or without
    found = {}
    for name, shape in file.shapes.items():
        names = (name, prefix + name, name.removeprefix(prefix))
        own = next((known[each] for each in names if each in known), None)
        if own is not None and own[0] == shape:
            found[name] = own[1]
        elif len(shape) > 3 and not any(each in tensors for each in names) and len(of_shape.get(shape, ())) == 1:
            # Under a name of an earlier version; but all of the model's convolutions of this shape are alike.
            (found[name],) = of_shape[shape]
    return found


def _is_small(config: Path, tensors: int) -> bool:
    """Whether a model of transformers is described whose parts are no more than the tensors of its file.

    A config of a billion layers would keep us busy for days, weights or not.
    """
    try:
        known = json.loads(config.read_text(encoding="utf-8"))
        return isinstance(known, dict) and "model_type" in known and all(count <= tensors for count in _counts(known))
    except DAMAGE:
        return False


def _counts(config: Any, counts: bool = False) -> Iterator[float]:
    """The numbers that say how many parts there are, at any depth."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield from _counts(value, counts=_COUNTS.search(key) is not None)
    elif isinstance(config, list):
        for value in config:
            yield from _counts(value, counts)
    elif counts and isinstance(config, int | float):
        yield config


def _skeleton(folder: Path) -> Any:
    """The model of a folder's config, without memory for its tensors."""
    import torch
    import transformers
    from transformers.utils import logging

    printing: Any = logging
    makers: Any = transformers.AutoModel
    said = printing.get_verbosity()
    printing.set_verbosity_error()
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        names = (getattr(transformers, name, None) for name in getattr(config, "architectures", None) or ())
        classes: list[Any] = [
            each for each in names if isinstance(each, type) and issubclass(each, transformers.PreTrainedModel)
        ]
        # Not by accelerate, which makes each tensor before it drops it: sizes come from a stranger's file.
        with torch.device("meta"):
            return classes[0]._from_config(config) if classes else makers.from_config(config)
    finally:
        printing.set_verbosity(said)


def _convolutions(model: Any) -> Iterator[tuple[str, tuple[tuple[int, ...], int]]]:
    """Names of weights, each with its shape and groups."""
    from torch.nn.modules.conv import _ConvNd

    for name, module in model.named_modules():
        if isinstance(module, _ConvNd):
            shape = tuple(module.weight.shape)
            # The direction of a weight that is normed has its shape, and two names.
            for leaf in ("weight", "weight_v", "parametrizations.weight.original1"):
                yield f"{name}.{leaf}", (shape, module.groups)

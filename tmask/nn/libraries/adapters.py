"""Which weights of a model belong to adapters (LoRA and its kin), which stay dense unless they are asked for.

An adapter is small, is trained beside a frozen weight, and is merged into it in the end: a mask on its factors is none
on their product. Told by form and by name, so that no library has to be there: peft, torchtune, loralib, diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import nn

REASON = "an adapter's, which is merged into another weight in the end"

# A part of a name: "lora_A", "lora_embedding_B", "to_q_lora"; not "flora" or "exploration".
_NAMED = re.compile(r"(^|[._])(lora|loha|lokr|dora|vera)([._]|$)", re.IGNORECASE)
_BASE = "base_layer"  # the name by which peft's layers hold the one that they are put around


def adapter_weights(
    model: nn.Module, names: Iterable[str], asked: Sequence[str], matches: Callable[[str, str], bool]
) -> set[str]:
    """Those of the names, of parameters or of modules, that belong to adapters and are not asked for.

    Args:
        asked: globs of what the user wants. One that matches adapters alone asks for them; one that matches other
            weights too ("*", the name of a block) does not.
        matches: whether a glob matches a name.
    """
    known = list(names)
    roots = tuple(_roots(model))
    own = {name for name in known if _NAMED.search(name) or f"{name}.".startswith(roots)}
    alone = [glob for glob in asked if all(name in own for name in known if matches(glob, name))]
    return {name for name in own if not any(matches(glob, name) for glob in alone)}


def _roots(model: nn.Module) -> Iterator[str]:
    """Names, each with a dot behind it, of what peft has put beside the layers of a model and in front of it."""
    for name, module in model.named_modules():
        dot = f"{name}." if name else ""
        if isinstance(getattr(type(module), "adapter_layer_names", None), tuple) and hasattr(module, _BASE):
            held = (*module._modules, *module._parameters)
            yield from (f"{dot}{part}." for part in held if part != _BASE)
        elif hasattr(module, "peft_config") and isinstance(module._modules.get("prompt_encoder"), nn.Module):
            yield f"{dot}prompt_encoder."

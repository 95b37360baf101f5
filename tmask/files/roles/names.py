"""Roles that tensors' names tell, as the common libraries name them.

Shapes do not tell them: a table of scales, a router and an expert's bias are matrices like any weight, and masking one
of them ruins the model without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Waiver(Enum):
    """What lifts a reason: nothing, an option that names the tensor in full, or one that matches it."""

    NEVER = "never"
    FULL_NAME = "full name"
    MATCH = "match"


@dataclass(frozen=True, slots=True)
class NamedRole:
    """A role, and the names that have it.

    Args:
        reason: why such a tensor gets no mask.
        leaf: pattern of the whole last part of the name.
        owner: pattern of the whole part before it, the module that holds the tensor.
        anywhere: pattern of some whole part.
        among_experts: whether the name means that in models with experts alone.
    """

    reason: str
    waiver: Waiver
    leaf: str = ""
    owner: str = ""
    anywhere: str = ""
    among_experts: bool = False

    def fits(self, parts: list[str], has_experts: bool) -> bool:
        """Whether a name, cut at its dots, has this role."""
        if self.among_experts:
            # Before the experts: a part of one may be called a gate, too, and is a matrix like the others.
            inside = next((at for at, part in enumerate(parts) if re.fullmatch(_EXPERTS, part)), len(parts))
            return has_experts and _whole(self.anywhere, parts[:inside])
        owner = parts[-2] if len(parts) > 1 else ""
        return (
            _whole(self.leaf, [parts[-1]])
            or (owner != "" and _whole(self.owner, [owner]))
            or _whole(self.anywhere, parts)
        )


_ROUTER = r"gate|gating|(\w*_)?experts?_gate|moe_gate|wg"
_EXPERTS = r"experts?|\w+_experts|experts_\w+"

# In order: the first that fits counts.
_ROLES = (
    NamedRole("a mask, by its name", Waiver.NEVER, leaf=r"(\w*_|bit)?masks?|\w*_mma_pruned_p|masked_bias"),
    NamedRole(
        "scales or zero points of a quantised weight, by its name",
        Waiver.NEVER,
        leaf=r"(\w+_)?(scales?|scale_inv|scale_\d|scale_ub|scaling_factors?|zero_points?|qzeros|absmax|quant_map"
        r"|codebooks?)|SCB",
    ),
    NamedRole("a bias, by its name", Waiver.NEVER, leaf=r"(\w*_)?bias(es)?(_table)?", owner=r"relative_\w*bias"),
    NamedRole("an optimizer's state, by its name", Waiver.NEVER, leaf=r"exp_avg(_sq)?|momentum_buffer|max_exp_avg_sq"),
    NamedRole(
        "half of a weight that is normed: remove the weight norm first, by remove_weight_norm or "
        "remove_parametrizations of torch.nn.utils",
        Waiver.FULL_NAME,
        leaf=r"weight_[gv]|original[01]",
    ),
    NamedRole("an adapter, by its name (merge it first)", Waiver.FULL_NAME,
              anywhere=r"lora_\w+|ia3_\w+|hada_\w+|lokr_\w+"),
    NamedRole("a norm's weight, by its name", Waiver.FULL_NAME, owner=r"(\w*_)?(\w*norm\d*|ln\d*|bn\d*)|ln_\w+",
              leaf=r"(\w*_)?(layer_?norm|rms_?norm|norm)\d*|gamma"),
    NamedRole("decays of a state space, by its name", Waiver.FULL_NAME,
              leaf=r"A_log|time_(decay|first|faaaa|mix_\w+|maa_?\w*)"),
    NamedRole("it routes samples to experts", Waiver.FULL_NAME, anywhere=_ROUTER, among_experts=True),
    NamedRole("it routes samples to experts", Waiver.FULL_NAME, anywhere=r"(\w*_)?router(_\w*)?"),
    NamedRole(
        "an embedding by its name",
        Waiver.MATCH,
        # Look-up tables, which no matrix product multiplies.
        anywhere=r"(?i:(\w*[._])?(\w*embed\w*|wte|wpe|\w*_emb|emb)(_\w*)?)",
        leaf=r"(\w+_)?(tokens?|latents?|queries|prompts?|table)",
    ),
    NamedRole(
        "the output head, by its name",
        Waiver.MATCH,
        owner=r"lm_head|embed_out|output_layer|unembed\w*|output_projection|classifier|classification_head|score",
        leaf=r"lm_head|classifier",
    ),
)  # fmt: skip

# Outputs under names that other layers have too: they count where the tensor has the shape of an embedding.
_OUTPUTS = re.compile(r"(^|\.)(output|head|decoder|proj_out|to_logits|logits|generator|out)(\.|$)")
_CONVOLUTION = re.compile(r"(^|[._])(conv(s|\d\w*)?|convolution\w*|\w*conv\d?d?)([._]|$)", re.IGNORECASE)


def role_by_name(name: str, has_experts: bool) -> NamedRole | None:
    """The role that a name tells, or None."""
    parts = name.split(".")
    return next((role for role in _ROLES if role.fits(parts, has_experts)), None)


def is_output(name: str) -> bool:
    """Whether a tensor that is shaped like the embedding is the output, by its name."""
    return _OUTPUTS.search(name) is not None


def names_experts(names: Iterable[str]) -> bool:
    """Whether some name has a part that stands for experts."""
    return any(_whole(_EXPERTS, name.split(".")) for name in names)


def names_convolution(name: str) -> bool:
    """Whether a name says that its tensor is a convolution's."""
    return _CONVOLUTION.search(name) is not None


def _whole(pattern: str, parts: Iterable[str]) -> bool:
    return bool(pattern) and any(re.fullmatch(pattern, part) for part in parts)

"""Roles that tensors' names tell, as the common libraries name them: of files, and of models in memory.

Shapes do not tell them: a table of scales, a router and an expert's bias are matrices like any weight, and masking one
of them ruins the model without a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum


class Waiver(Enum):
    """What lifts a reason: nothing, an option that names the tensor in full, or one that matches it."""

    NEVER = "never"
    FULL_NAME = "full name"
    MATCH = "match"

    @property
    def advice(self) -> str:
        """What to do to have such a tensor masked all the same, as the end of a reason."""
        return {Waiver.NEVER: "", Waiver.FULL_NAME: "include it by its full name", Waiver.MATCH: "include it"}[self]

    def lifted(self, name: str, asked: Iterable[str], matches: Callable[[str, str], bool]) -> bool:
        """Whether globs that the user has given ask for a parameter; by its full name, or that of its module.

        A glob such as "layers.*" would bring routers and norms along, which nobody meant.
        """
        if self is Waiver.MATCH:
            return any(matches(glob, name) for glob in asked)
        return self is Waiver.FULL_NAME and any(glob in (name, name.rpartition(".")[0]) for glob in asked)


@dataclass(frozen=True, slots=True)
class NamedRole:
    """A role, and the names that have it.

    Args:
        reason: why such a tensor gets no mask.
        leaf: pattern of the whole last part of the name.
        owner: pattern of the whole part before it, the module that holds the tensor.
        anywhere: pattern of some whole part.
        among_experts: whether the name means that in models with experts alone.
        reach: parts at the end of the name among which `anywhere` counts; 0 for all. A whole network may be called
            after what it makes: "embedding_net.body.0.fc.weight".
        product: whether a matrix product reads it, whatever holds it.
    """

    reason: str
    waiver: Waiver
    leaf: str = ""
    owner: str = ""
    anywhere: str = ""
    among_experts: bool = False
    reach: int = 0
    product: bool = False

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
            or _whole(self.anywhere, parts[-self.reach :])
        )


_ROUTER = r"gate|gating|(\w*_)?experts?_gate|moe_gate|wg"
_EXPERTS = r"experts?|\w+_experts|experts_\w+"
# What other libraries put into a name: layers of adapters, compiled modules, checkpointed ones.
_WRAPPERS = {"base_layer", "original_module", "_orig_mod", "_checkpoint_wrapped_module"}

ADAPTER = NamedRole(
    "an adapter, by its name (merge it first)", Waiver.FULL_NAME, anywhere=r"lora_\w+|ia3_\w+|hada_\w+|lokr_\w+"
)
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
    ADAPTER,
    NamedRole("a norm's weight, by its name", Waiver.FULL_NAME, owner=r"(\w*_)?(\w*norm\d*|ln\d*|bn\d*)|ln_\w+",
              leaf=r"(\w*_)?(layer_?norm|rms_?norm|norm)\d*|gamma"),
    NamedRole("decays of a state space, by its name", Waiver.FULL_NAME,
              leaf=r"A_log|time_(decay|first|faaaa|mix_\w+|maa_?\w*)"),
    NamedRole("it routes samples to experts", Waiver.FULL_NAME, anywhere=_ROUTER, among_experts=True, product=True),
    NamedRole("it routes samples to experts", Waiver.FULL_NAME, anywhere=r"(\w*_)?router(_\w*)?", product=True),
    NamedRole(
        "an embedding by its name",
        Waiver.MATCH,
        # Look-up tables, which no matrix product multiplies.
        anywhere=r"(?i:(\w*[._])?(\w*embed\w*|wte|wpe|\w*_emb|emb)(_\w*)?)",
        leaf=r"(\w+_)?(tokens?|latents?|queries|prompts?|table)",
        reach=3,
        owner="shared",  # T5's, which the encoder and the decoder have in common
    ),
    NamedRole(
        "the output head, by its name",
        Waiver.MATCH,
        owner=r"lm_head|embed_out|output_layer|unembed\w*|output_projection|classifier|classification_head|score",
        leaf=r"lm_head|classifier",
        product=True,
    ),
)  # fmt: skip

_SHAPED_OUTPUT = NamedRole("the output head: it has an embedding's shape", Waiver.MATCH)
# Outputs under names that other layers have too: they count where the tensor has the shape of an embedding.
_OUTPUTS = re.compile(r"(^|\.)(output|head|decoder|proj_out|to_logits|logits|generator|out)(\.|$)")
_CONVOLUTION = re.compile(r"(^|[._])(conv(s|\d\w*)?|convolution\w*|\w*conv\d?d?)([._]|$)", re.IGNORECASE)


class RolesByName:
    """The one rule of what names tell: files, training and pruning leave the same dense.

    Args:
        shapes: of all tensors, by name.
        has_experts: whether it is known from elsewhere that the model has experts.
        tables: names of tensors that are known to be embeddings.
    """

    def __init__(
        self, shapes: Mapping[str, Sequence[int]], has_experts: bool = False, tables: Iterable[str] = ()
    ) -> None:
        has_experts = has_experts or names_experts(shapes)
        self._roles = {name: _role(name, has_experts) for name in shapes}
        alike = {name for name, role in self._roles.items() if role is not None and role.waiver is Waiver.MATCH}
        embeddings = {(*shapes[name],) for name in {*alike, *tables} if len(shapes[name]) == 2}
        for name, shape in shapes.items():
            if self._roles[name] is None and _OUTPUTS.search(name) and (*shape,) in embeddings:
                self._roles[name] = _SHAPED_OUTPUT

    def of(self, name: str) -> NamedRole | None:
        """The role that a name tells, or None."""
        return self._roles[name]


def _role(name: str, has_experts: bool) -> NamedRole | None:
    whole = name.split(".")
    parts = [part for part in whole if part not in _WRAPPERS] or whole  # a tensor may be called so itself
    return next((role for role in _ROLES if role.fits(parts, has_experts)), None)


def names_experts(names: Iterable[str]) -> bool:
    """Whether some name has a part that stands for experts."""
    return any(_whole(_EXPERTS, name.split(".")) for name in names)


def names_convolution(name: str) -> bool:
    """Whether a name says that its tensor is a convolution's."""
    return _CONVOLUTION.search(name) is not None


def _whole(pattern: str, parts: Iterable[str]) -> bool:
    return bool(pattern) and any(re.fullmatch(pattern, part) for part in parts)

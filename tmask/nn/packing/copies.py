"""The packed copies of one layer's weight, a pair for each dtype, and from which contents of weight and mask they are.

By dtype, since under autocast the layer's product is not in the weight's own. A weight or mask that was changed in
place is told by torch's version counters; fused optimizers do not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tmask.nn.mask.parametrization import Masked
from tmask.nn.mask.stamps import Stamp, stamp_of
from tmask.nn.packing.packable import check_complete, completed
from tmask.nn.packing.routes import ROUTES, Operand
from tmask.nn.packing.verification import verify


@dataclass(eq=False)
class Copies:
    """What is packed of one module.

    Args:
        route: name of the one that packs and multiplies.
        pack: packs the module's weight for one more dtype; code that may be compiled must take this way.
        at_most: masks may keep fewer than two of four, where zeros can fill them up.
        fitting: the device and dtype that the route was found for.
        stamp, mask_stamp: of the contents that the operands, and the plans, were made from.
        full: a mask that keeps fewer than two of four, filled up; None for one that needs no more.
        plans: what packing needs of the mask alone, by dtype; they outlast changes of the weight.
        operands: the weight and its transpose, by dtype.
        outdated: operands of an earlier weight or mask, whose memory is written to again.
    """

    route: str
    pack: Callable[[nn.Module, torch.dtype], None]
    at_most: bool = False
    fitting: tuple[torch.device, torch.dtype | None] | None = None
    stamp: Stamp = ()
    mask_stamp: Stamp = ()
    full: Tensor | None = None
    plans: dict[torch.dtype, list[Tensor]] = field(default_factory=dict)
    operands: dict[torch.dtype, tuple[Operand, Operand]] = field(default_factory=dict)
    outdated: dict[torch.dtype, tuple[Operand, Operand]] = field(default_factory=dict)

    def are_of(self, weight: Tensor, mask: Tensor) -> bool:
        """Whether they were packed from these contents, as far as torch's counters tell."""
        return self.stamp == (*stamp_of(weight), *stamp_of(mask))

    def add(self, weight: Tensor, masked: Masked, dtype: torch.dtype) -> None:
        """Pack for one dtype; what was packed from other contents is outdated.

        The route may write to the old tensors, so that a captured graph goes on with the new contents; a backward pass
        that is pending then raises.

        Raises:
            InvalidMaskError: the mask is not a complete 2:4 one.
            KernelError: the route's products are wrong here.
        """
        route, mask = ROUTES[self.route], masked.mask
        rows, cols = weight.shape
        verify(route, (rows, cols), dtype, weight.device)
        mask_stamp = stamp_of(mask)
        if mask_stamp != self.mask_stamp:
            # The kernels trust the mask, and would multiply with an incomplete one silently. One that was found to be
            # complete, and left alone since, needs no second look, which a GPU would be waited for.
            if masked.complete_at == mask_stamp:
                self.full = None
            elif self.at_most:
                full = completed(mask)
                self.full = None if full is mask else full
            else:
                check_complete(mask)
            self.plans.clear()
            self.mask_stamp = mask_stamp
        stamp = (*stamp_of(weight), *mask_stamp)
        if stamp != self.stamp:
            self.outdate()
            self.stamp = stamp
        # What fills a mask up must be 0; else the plan leaves out what the mask prunes.
        contents = masked.values(weight) if self.full is not None or masked.smoothing else weight.contiguous()
        # A plan costs a kernel and a comparison of its own; under one mask, steps change the weight alone.
        new = dtype not in self.plans
        if new:
            self.plans[dtype] = route.plan(mask if self.full is None else self.full, dtype)
        old, plan = self.outdated.pop(dtype, None), self.plans[dtype]
        if old is None or (new and not route.remask(old, plan)):
            self.operands[dtype] = route.pack(contents.to(dtype), plan)
        else:
            self.operands[dtype] = route.repack(old, contents, plan)

    def outdate(self) -> list[torch.dtype]:
        """Take the weight for changed since it was packed, and return for which dtypes it was packed."""
        self.outdated, self.operands = self.outdated | self.operands, {}
        return list(self.outdated)

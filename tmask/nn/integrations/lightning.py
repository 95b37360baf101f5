"""Sparse training in the Trainer of PyTorch Lightning.

    sparsifier = sparsify(module, "2:4", schedule=Periodic(every=40))
    Trainer(..., callbacks=[SparsifierCallback(sparsifier)]).fit(module)

Lightning has no hook after the optimizer's step; torch's own hook on the optimizer serves. docs: integrations says
what its checkpoints hold.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from tmask.errors import InvalidProblemError
from tmask.nn.distributed.ranks import joining
from tmask.nn.training.baking import bake
from tmask.nn.training.sparsifier import Sparsifier
from tmask.nn.training.watching import plain_optimizer


class SparsifierCallback(Callback):
    """Lets a Sparsifier follow a Trainer: renewals, metrics, checkpoints, resuming.

    Each renewal's overall figures are logged as "tmask/flip_rate" and so on, at its step; loggers that write every
    figure that is known at each of their steps, `CSVLogger` for one, repeat them until the next.

    Args:
        sparsifier: of the module, or of a part of it that one optimizer holds.
    """

    def __init__(self, sparsifier: Sparsifier) -> None:
        self.sparsifier = sparsifier
        self._logged = -1  # step of the latest renewal that was logged

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the optimizer that holds the weights.

        Raises:
            InvalidProblemError: none does.
        """
        # Here, and not in `sparsify`: Lightning makes the optimizers when fitting begins.
        weights = {id(layer.weight) for layer in self.sparsifier.layers if layer.weight.requires_grad}
        for optimizer in map(plain_optimizer, trainer.optimizers):
            if weights <= {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}:
                self.sparsifier.watch(optimizer)
                return
        with joining(self.sparsifier.ranks):  # the others meet in `watch`
            raise InvalidProblemError(
                f"none of the {len(trainer.optimizers)} optimizers holds all weights with a mask; let "
                "configure_optimizers give them to one optimizer, or exclude layers"
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the figures of a renewal."""
        renewal = self.sparsifier.last_renewal
        # A batch that only adds to the gradients makes no step, and the latest renewal stays the one that was logged.
        if renewal is not None and renewal.step > self._logged:
            self._logged = renewal.step
            overall = {name: value for name, value in renewal.metrics().items() if "/" not in name}
            pl_module.log_dict({f"tmask/{name}": value for name, value in overall.items()})

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the optimizer."""
        self.sparsifier.unwatch()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the optimizer."""
        # Lightning calls no `teardown` after a training that has failed.
        self.sparsifier.unwatch()

    def state_dict(self) -> dict[str, Any]:
        """The Sparsifier's, for the checkpoint."""
        return self.sparsifier.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was saved; Lightning has loaded the module by then."""
        self.sparsifier.load_state_dict(state_dict)


def export_checkpoint(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Make a checkpoint of a sparsified module one of the plain module, with the masks baked into its weights.

    The states of optimizers, callbacks and loops are left out: it is for `load_from_checkpoint`, not for resuming.

    Raises:
        InvalidProblemError: there are no masks in it.
    """
    # A checkpoint may come from elsewhere, and a pickle that is not held to weights can run code.
    checkpoint: dict[str, Any] = torch.load(source, map_location="cpu", weights_only=True)
    state: Mapping[str, Tensor] = checkpoint["state_dict"]
    # What `load_from_checkpoint` reads, and no more: Adam's state alone is twice the weights.
    kept = (
        "pytorch-lightning_version",
        "epoch",
        "global_step",
        "hyper_parameters",
        "hparams_name",
        "datamodule_hyper_parameters",
    )
    torch.save({name: checkpoint[name] for name in kept if name in checkpoint} | {"state_dict": bake(state)}, target)

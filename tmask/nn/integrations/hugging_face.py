"""Sparse training in the Trainer of Hugging Face's transformers.

    sparsifier = sparsify(model, "2:4", schedule=Periodic(every=40))
    Trainer(model, ..., callbacks=[SparsifierCallback(sparsifier)]).train()

The callback follows the optimizer that the Trainer makes. docs: integrations says what the checkpoints hold, and
which of them is for `from_pretrained`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from torch.optim import Optimizer
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from tmask.errors import InvalidProblemError
from tmask.nn.distributed.ranks import joining, together
from tmask.nn.integrations.unwrapping import whole_state
from tmask.nn.mask.shards import is_sharded
from tmask.nn.training.exporting import export, export_state_dict
from tmask.nn.training.sparsifier import Sparsifier

_STATE = "tmask.nn.Sparsifier"  # our place in trainer_state.json


class SparsifierCallback(TrainerCallback):
    """Lets a Sparsifier follow a Trainer: renewals, metrics, checkpoints, resuming.

    The latest renewal's overall figures join the Trainer's log history, as "tmask/flip_rate" and so on; what
    `sparsify(..., on_renewal=...)` is given reaches any other logger.

    Args:
        sparsifier: of the Trainer's model.
        export_folder: inside each checkpoint, takes the model in the dense layout; None to save none.
        export_at_end: bake the masks into the model when training ends, so that `save_model` and `save_pretrained`
            give the dense layout; not for a model that `fully_shard` has cut.
    """

    def __init__(
        self, sparsifier: Sparsifier, *, export_folder: str | None = "exported", export_at_end: bool = True
    ) -> None:
        self.sparsifier = sparsifier
        self.export_folder = export_folder
        self.export_at_end = export_at_end

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Follow the optimizer, and go on where a checkpoint was saved.

        After a training that broke off (and the Trainer's own retry with smaller batches), steps are counted on.

        Raises:
            InvalidProblemError: the optimizer does not hold the weights, the checkpoint is not of this training, or an
                earlier training has ended with the masks baked in.
        """
        optimizer: Optimizer = kwargs["optimizer"]
        self.sparsifier.unwatch()  # the optimizer of a training that broke off, of which the Trainer tells nobody
        self.sparsifier.watch(optimizer)
        saved = _states(state).get(_STATE)
        if saved is not None:
            self.sparsifier.load_state_dict(saved)
        # Resumed, and no state of ours: masks would be found anew on weights that were trained without any.
        elif state.global_step:
            raise InvalidProblemError(
                f"the checkpoint of step {state.global_step} was trained without SparsifierCallback; load its weights "
                "before sparsify, and start anew"
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Leave the Sparsifier's state where the Trainer saves its own."""
        # After every step, since the Trainer writes its own state before it calls `on_save`.
        _states(state)[_STATE] = self.sparsifier.state_dict()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add the figures of the latest renewal to the entry that the Trainer has just made."""
        if state.log_history:
            # Of single layers ("figure/layer") there can be hundreds, and this history is part of every checkpoint.
            overall = {name: value for name, value in self.sparsifier.metrics().items() if "/" not in name}
            state.log_history[-1] |= {f"tmask/{name}": value for name, value in overall.items()}

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save the masked weights in the dense layout, inside the checkpoint."""
        if self.export_folder is None:
            return
        model: PreTrainedModel = kwargs["model"]
        checkpoint = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        ranks = self.sparsifier.ranks
        # On all ranks, since shards are put together by all; one of them writes, whose full disk stops all.
        with joining(ranks):
            whole = whole_state(export_state_dict(model))
        with together(ranks):
            model.save_pretrained(checkpoint / self.export_folder, state_dict=whole, is_main_process=args.should_save)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let go of the optimizer, and make the model plain."""
        self.sparsifier.unwatch()
        # `export` cannot take masks off weights that `fully_shard` has cut.
        if self.export_at_end and not any(is_sharded(layer.weight) for layer in self.sparsifier.layers):
            with together(self.sparsifier.ranks):
                export(kwargs["model"])


def _states(state: TrainerState) -> dict[str, Any]:
    """What trainer_state.json holds of callbacks, by name: a dict once made, whatever its annotation says."""
    return cast("dict[str, Any]", state.stateful_callbacks)

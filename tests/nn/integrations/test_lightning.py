"""The real Trainer of Lightning, on a module of two small layers."""

import pytest
import torch

import tmask
from tests.nn.models import batch, mlp
from tmask import nn as tnn

pytest.importorskip("lightning")

from lightning.pytorch import LightningModule, Trainer

from tmask.nn.integrations.lightning import SparsifierCallback, export_checkpoint

DYNAMIC = tnn.Periodic(every=2)
DATA = list(batch((4, 8)))  # one batch: a Trainer that resumes goes through several in another order


class Module(LightningModule):
    """Trains `mlp`; checks its masks whenever a batch has ended."""

    def __init__(self):
        super().__init__()
        self.net = mlp()
        self.sparsifier = None
        self.masks, self.losses = [], []

    def training_step(self, x, index):
        loss = self.net(x).square().mean()
        self.losses.append(loss.item())
        return loss

    def on_train_batch_end(self, outputs, x, index):
        assert self.sparsifier.steps == self.trainer.global_step
        for layer in self.sparsifier.layers:
            tmask.check_mask(layer.masked.mask, "2:4")
            effective = getattr(layer.owners[0].module, layer.owners[0].tensor)
            assert torch.equal(effective, layer.weight.where(layer.masked.mask, 0))
        self.masks.append([layer.masked.mask.clone() for layer in self.sparsifier.layers])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 0.05)


def trained(folder, steps=6, size=4, resume=None, module=None, **arguments):
    """The module, its callback and the Trainer."""
    module = Module() if module is None else module
    module.sparsifier = tnn.sparsify(module, schedule=DYNAMIC, decay=tnn.MaskedDecay(1e-3))
    callback = SparsifierCallback(module.sparsifier)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[callback],
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    trainer.fit(module, torch.utils.data.DataLoader(DATA, batch_size=size), ckpt_path=resume, weights_only=False)
    return module, callback, trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three steps, saved, and then three more; apart from it, six steps in one."""
    folder = tmp_path_factory.mktemp("lightning")
    _, _, trainer = trained(folder, steps=3)
    trainer.save_checkpoint(folder / "three.ckpt")
    return folder / "three.ckpt", *trained(folder)


def test_masks_hold_after_every_step_and_are_renewed(run):
    _, module, *_ = run
    assert module.sparsifier.steps == len(module.masks) == 6
    changed = [
        any(not torch.equal(a, b) for a, b in zip(old, new, strict=True))
        for old, new in zip(module.masks, module.masks[1:], strict=False)
    ]
    assert changed == [True, False, True, False, True]


def test_figures_of_renewals_are_logged(run):
    _, module, _, trainer = run
    logged = trainer.callback_metrics
    assert logged["tmask/step"] == 6
    assert logged["tmask/flip_rate"] == pytest.approx(module.sparsifier.metrics()["flip_rate"])


def test_resuming_repeats_the_run_bit_for_bit(run, tmp_path):
    checkpoint, module, *_ = run
    again, callback, _ = trained(tmp_path, resume=checkpoint)
    assert callback.sparsifier.steps == 6
    assert again.losses == module.losses[3:]
    for name, tensor in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_an_exported_checkpoint_loads_into_the_plain_module(run, tmp_path):
    checkpoint, *_ = run
    export_checkpoint(checkpoint, tmp_path / "plain.ckpt")
    plain = Module.load_from_checkpoint(tmp_path / "plain.ckpt")
    for layer in (plain.net[0], plain.net[2]):
        tmask.check_mask(layer.weight != 0, "2:4")


def test_micro_batches_count_as_one_step(run, tmp_path):
    _, module, *_ = run
    parts, *_ = trained(tmp_path, size=2, accumulate_grad_batches=2)
    assert parts.sparsifier.steps == 6
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name].float(), tensor.float(), rtol=1e-4, atol=1e-4)


def test_after_training_the_optimizer_is_let_go(run):
    _, module, *_ = run
    module.sparsifier.watch(torch.optim.SGD(module.parameters(), 0.1))
    module.sparsifier.unwatch()


def test_it_lets_go_when_training_fails(tmp_path):
    module = Module()
    module.training_step = lambda *args: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trained(tmp_path, module=module)
    module.sparsifier.watch(torch.optim.SGD(module.parameters(), 0.1))


def test_weights_that_no_optimizer_holds_are_an_error(tmp_path):
    module = Module()
    module.configure_optimizers = lambda: torch.optim.SGD(module.net[0].parameters(), 0.1)
    with pytest.raises(tmask.InvalidProblemError, match="none of the 1 optimizers holds all weights"):
        trained(tmp_path, module=module)

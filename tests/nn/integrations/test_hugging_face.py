"""The real Trainer, on a GPT-2 of two small layers that is made on the spot."""

import copy
import json

import pytest
import torch

import tmask
from tmask import nn as tnn

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from tmask.nn.integrations.hugging_face import SparsifierCallback  # noqa: E402

DYNAMIC = tnn.Periodic(every=2)
TOKENS = torch.randint(32, (64, 8), generator=torch.Generator().manual_seed(0))
DATA = [{"input_ids": row, "labels": row} for row in TOKENS]


def gpt():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2, n_embd=16, n_head=2, vocab_size=32, n_positions=8, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    return transformers.GPT2LMHeadModel(config)


class Watch(transformers.TrainerCallback):
    """Checks after every optimizer step, and keeps the weights that it left."""

    def __init__(self, sparsifier):
        self.sparsifier = sparsifier
        self.masks = []

    def on_optimizer_step(self, args, state, control, **kwargs):
        assert self.sparsifier.steps == state.global_step + 1
        for layer in self.sparsifier.layers:
            tmask.check_mask(layer.masked.mask, "2:4")
            effective = getattr(layer.owners[0].module, layer.owners[0].tensor)
            assert torch.equal(effective, layer.weight.where(layer.masked.mask, 0))
        self.masks.append([layer.masked.mask.clone() for layer in self.sparsifier.layers])


def trained(folder, model=None, resume=None, callback=None, **arguments):
    """Six steps, or those that a checkpoint lacks; model, sparsifier, Watch and Trainer."""
    model = gpt() if model is None else model
    sparsifier = tnn.sparsify(model, schedule=DYNAMIC, decay=tnn.MaskedDecay(1e-3))
    watch = Watch(sparsifier)
    arguments = {"max_steps": 6, "save_steps": 3, "per_device_train_batch_size": 4, "logging_steps": 2} | arguments
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            str(folder), learning_rate=0.05, use_cpu=True, report_to=[], disable_tqdm=True, seed=1, **arguments
        ),
        train_dataset=DATA,
        callbacks=[callback(sparsifier) if callback else SparsifierCallback(sparsifier), watch],
    )
    trainer.train(resume_from_checkpoint=resume)
    return model, sparsifier, watch, trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainer")
    return folder, *trained(folder)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_masks_hold_after_every_step_and_are_renewed(run):
    _, _, sparsifier, watch, _ = run
    assert sparsifier.steps == len(watch.masks) == 6
    changed = [
        any(not torch.equal(a, b) for a, b in zip(old, new, strict=True))
        for old, new in zip(watch.masks, watch.masks[1:], strict=False)
    ]
    assert changed == [True, False, True, False, True]


def test_figures_of_renewals_are_in_the_log(run):
    *_, trainer = run
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [(entry["step"], entry["tmask/step"]) for entry in entries] == [(2, 2), (4, 4), (6, 6)]
    assert all(entry["tmask/gap"] == 0 < entry["tmask/flip_rate"] < 1 for entry in entries)


def test_the_model_ends_plain_and_is_saved_in_the_dense_layout(run, tmp_path):
    _, model, sparsifier, _, trainer = run
    assert weights(model).keys() == weights(gpt()).keys()
    trainer.save_model(tmp_path)
    loaded, info = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    for name, tensor in weights(model).items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    for layer in sparsifier.layers:
        tmask.check_mask(loaded.get_parameter(layer.name) != 0, "2:4")


def test_a_checkpoint_holds_a_loadable_model_with_the_masks_of_its_step(run):
    folder, _, sparsifier, watch, _ = run
    exported = folder / "checkpoint-3/exported"
    loaded, info = transformers.GPT2LMHeadModel.from_pretrained(exported, output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    for layer, mask in zip(sparsifier.layers, watch.masks[2], strict=True):
        assert torch.equal(loaded.get_parameter(layer.name) != 0, mask)


def test_resuming_repeats_the_run_bit_for_bit(run, tmp_path):
    folder, model, sparsifier, watch, _ = run
    again, resumed, rest, _ = trained(tmp_path, resume=str(folder / "checkpoint-3"))
    assert resumed.steps == 6
    assert len(rest.masks) == 3
    for name, tensor in weights(model).items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert all(torch.equal(a, b) for a, b in zip(rest.masks[-1], watch.masks[-1], strict=True))
    a, b = (copy.copy(s.metrics()) for s in (sparsifier, resumed))
    assert {k: v for k, v in a.items() if "seconds" not in k} == {k: v for k, v in b.items() if "seconds" not in k}


def test_micro_batches_count_as_one_step(run, tmp_path):
    _, model, *_ = run
    parts, sparsifier, _, _ = trained(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert sparsifier.steps == 6
    for name, tensor in weights(model).items():
        torch.testing.assert_close(parts.state_dict()[name], tensor, rtol=1e-3, atol=1e-3)


def test_nothing_is_exported_where_it_is_not_wanted(tmp_path):
    model, sparsifier, _, _ = trained(
        tmp_path,
        callback=lambda sparsifier: SparsifierCallback(sparsifier, export_folder=None, export_at_end=False),
        max_steps=2,
        save_steps=2,
    )
    assert not (tmp_path / "checkpoint-2/exported").exists()
    for layer in sparsifier.layers:
        tmask.check_mask(layer.masked.mask, "2:4")
    sparsifier.watch(torch.optim.SGD(model.parameters(), 0.1))  # nothing is watched any more


class Fails(transformers.TrainerCallback):
    """Once, at the second step."""

    def __init__(self, text):
        self.text = text

    def on_step_end(self, args, state, control, **kwargs):
        if self.text and state.global_step == 2:
            text, self.text = self.text, ""
            raise RuntimeError(text)


def trainer(folder, schedule, fails="", **arguments):
    model = gpt()
    sparsifier = tnn.sparsify(model, schedule=schedule)
    settings = {"max_steps": 3, "save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True}
    arguments = transformers.TrainingArguments(str(folder), **settings, **arguments)
    callbacks = [SparsifierCallback(sparsifier), Fails(fails)]
    return sparsifier, transformers.Trainer(model, arguments, train_dataset=DATA, callbacks=callbacks)


def test_training_that_broke_off_can_go_on(tmp_path):
    sparsifier, made = trainer(tmp_path, DYNAMIC, "no network")
    with pytest.raises(RuntimeError, match="no network"):
        made.train()
    made.train()
    assert sparsifier.steps == 5


def test_the_trainer_can_look_for_a_batch_size(tmp_path):
    sparsifier, made = trainer(tmp_path, DYNAMIC, "CUDA out of memory.", auto_find_batch_size=True)
    made.train()
    assert sparsifier.steps == 5


@pytest.mark.parametrize("schedule", [tnn.Frozen(), DYNAMIC])
def test_training_again_after_the_masks_were_baked_in_is_refused_at_once(schedule, tmp_path):
    sparsifier, made = trainer(tmp_path, schedule)
    made.train()
    with pytest.raises(tmask.InvalidProblemError, match="has this mask no more"):
        made.train()
    assert sparsifier.steps == 3


def test_a_checkpoint_of_another_training_is_refused(run, tmp_path):
    folder, *_ = run
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    for file in (folder / "checkpoint-3").iterdir():
        if file.is_file():
            (checkpoint / file.name).write_bytes(file.read_bytes())
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    del state["stateful_callbacks"]["tmask.nn.Sparsifier"]
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    with pytest.raises(tmask.InvalidProblemError, match="step 3 was trained without SparsifierCallback"):
        trained(tmp_path / "again", resume=str(checkpoint))

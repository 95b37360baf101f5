"""`prune_blocks` on models in memory: its settings, one by one, and what goes wrong."""

from __future__ import annotations

import copy
import tempfile

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

from tests.nn.blockwise.tiny_models import make, outputs, stack, tokens
from tmask.errors import InvalidProblemError
from tmask.nn import Frozen, Tuning, get_method, prune_blocks, sparsify
from tmask.nn.blockwise.memory.states import States

LAYERS = "model.layers.{}."


def batches(width=8, count=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(40, width, generator=generator, dtype=torch.float64) for _ in range(count)]


def run(pattern="2:4", model=None, data=None, **settings):
    """A stack pruned by Wanda."""
    model = stack() if model is None else model
    return model, prune_blocks(model, data or batches(), pattern, **{"method": "wanda"} | settings)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_padding_does_not_count(name, side):
    whole = tokens(1, sequences=5, length=10)[0]["input_ids"]
    lengths = [10, 7, 10, 7, 3]
    ids, mask = torch.zeros_like(whole), torch.zeros_like(whole)
    for row, length in enumerate(lengths):
        place = slice(10 - length, 10) if side == "left" else slice(0, length)
        ids[row, place], mask[row, place] = whole[row, :length], 1
    alone = [{"input_ids": whole[row : row + 1, :length]} for row, length in enumerate(lengths)]
    models = [make(name), make(name)]
    padded = prune_blocks(models[0], [{"input_ids": ids, "attention_mask": mask}], "2:4", method="wanda")
    unpadded = prune_blocks(models[1], alone, "2:4", method="wanda")
    assert padded.masks.keys() == unpadded.masks.keys()
    for key in padded.masks:
        assert torch.equal(padded.masks[key], unpadded.masks[key]), key
    assert [row.samples for row in padded.rows] == [row.samples for row in unpadded.rows]
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_padding_inside_a_sequence_is_refused():
    batch = tokens(1)[0]
    mask = torch.ones_like(batch["input_ids"])
    mask[2, 4] = 0
    with pytest.raises(InvalidProblemError, match="batch 0: sequence 2"):
        prune_blocks(make("llama"), [batch | {"attention_mask": mask}], "2:4")


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_cache_of_keys_and_values_does_not_grow(name):
    """A batch that does not say use_cache=False is run like one that does."""
    ids = [batch["input_ids"] for batch in tokens(2)]
    models = [make(name), make(name)]
    prune_blocks(models[0], ids, "2:4", method="wanda")
    prune_blocks(models[1], [{"input_ids": each, "use_cache": False} for each in ids], "2:4", method="wanda")
    assert same(*models)


@pytest.mark.parametrize("goal", ["dense", "layer"])
@pytest.mark.parametrize("by_stage", [True, False])
def test_errors_of_each_goal(goal, by_stage):
    dense = stack()
    model, report = run(goal=goal, by_stage=by_stage)
    whole = torch.cat(batches())
    missed = {"0.0.weight": None}
    with torch.no_grad():
        x = d = whole
        for index in range(len(model)):
            first, second = f"{index}.0.weight", f"{index}.2.weight"
            start = x if goal == "layer" else d
            missed[first] = model[index][0](x), dense[index][0](start)
            pruned_inside = model[index][1](model[index][0](x))
            dense_inside = dense[index][1](dense[index][0](start))
            # Not by stage, the second matrix was pruned for what the dense first one had given it.
            read = pruned_inside if by_stage else dense[index][1](dense[index][0](x))
            missed[second] = (
                nn.functional.linear(read, model[index][2].weight, model[index][2].bias),
                dense[index][2](read if goal == "layer" else dense_inside),
            )
            x, d = model[index](x), dense[index](d)
    for row in report.rows:
        got, wanted = missed[row.name]
        spread = (wanted - wanted.mean(0)).square().sum()
        assert row.error == pytest.approx(float((got - wanted).square().sum() / spread), rel=1e-6), row.name


def test_the_goal_of_the_dense_model_ends_nearer_to_it():
    dense, data = make("llama"), tokens()
    target = outputs(dense, data)
    missed = {}
    for goal in ("dense", "layer"):
        model = copy.deepcopy(dense)
        prune_blocks(model, data, "2:4", method="wanda", goal=goal)
        missed[goal] = float((outputs(model, data) - target).square().sum())
    assert missed["dense"] < missed["layer"]


def test_tuning_lowers_the_error_keeps_zeros_and_moves_norms():
    dense, data = make("llama"), tokens()
    target = outputs(dense, data)
    missed, models = [], []
    for tuning in (None, Tuning(epochs=8)):
        model = copy.deepcopy(dense)
        report = prune_blocks(model, data, "2:4", method="wanda", tuning=tuning)
        missed.append(float((outputs(model, data) - target).square().sum()))
        models.append(model)
        for name, mask in report.masks.items():
            assert bool((model.get_parameter(name)[~mask] == 0).all())
            assert not bool(torch.signbit(model.get_parameter(name)[~mask]).any())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert missed[1] < 0.9 * missed[0]
    norm = LAYERS.format(1) + "input_layernorm.weight"
    assert torch.equal(models[0].get_parameter(norm), dense.get_parameter(norm))
    assert not torch.equal(models[1].get_parameter(norm), dense.get_parameter(norm))


def test_states_in_files_change_nothing_and_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen = []
    held, _ = run()
    filed, _ = run(memory=3000, progress=lambda *_: seen.append(len([*tmp_path.rglob("*.bin")])))
    assert same(held, filed)
    assert seen[0] == 4  # one of three batches fits, of the pruned and of the dense states each
    assert not [*tmp_path.iterdir()]

    def fail(done, count, name):
        if done == 1:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run(memory=0, progress=fail)
    assert not [*tmp_path.iterdir()]


def test_states_may_change_their_shape():
    states = States(limit=0)
    states.append(torch.zeros(2, 3))
    states.replace(0, torch.ones(2, 5))
    assert torch.equal(states[0], torch.ones(2, 5))
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4)).double()
    model, report = run(model=model)
    assert [row.name for row in report.rows] == ["0.weight", "2.weight"]


def test_exclude_goes_by_full_names():
    _, report = run(exclude=["1.*.weight", "2.0"])
    assert [row.name for row in report.rows] == ["0.0.weight", "0.2.weight", "2.2.weight"]
    assert report.skipped == dict.fromkeys(["1.0.weight", "1.2.weight", "2.0.weight"], "excluded")
    with pytest.raises(InvalidProblemError, match=r"'7.0' matches no weight"):
        run(exclude=["7.0"])
    with pytest.raises(InvalidProblemError, match=r"no block has a matrix to prune.*0.0.weight: excluded"):
        run(exclude=["*"])


def test_patterns_by_name():
    _, report = run({"0.0.weight": "4:8", "*.2.weight": "2:4"})
    assert [row.name for row in report.rows] == ["0.0.weight", "0.2.weight", "1.2.weight", "2.2.weight"]
    assert report.skipped["1.0.weight"] == "no pattern is given for it"
    assert bool((report.masks["0.0.weight"].unfold(0, 8, 8).sum(2) == 4).all())
    with pytest.raises(InvalidProblemError, match=r"'0.9.weight' matches no weight"):
        run({"0.9.weight": "2:4"})


def test_unstructured_and_plain():
    _, report = run(0.25)
    assert [row.density for row in report.rows] == [0.25] * 6
    _, report = run("2:4", transposable=False)
    assert all(bool((mask.unfold(1, 4, 4).sum(2) == 2).all()) for mask in report.masks.values())
    assert any(bool((mask.unfold(0, 4, 4).sum(2) != 2).any()) for mask in report.masks.values())
    for settings in ({"pattern": 0.5}, {"transposable": False}):
        with pytest.raises(InvalidProblemError, match="a solver finds transposable masks"):
            run(**settings, solver="greedy-keep")


def test_matrices_smaller_than_a_tile_stay_dense():
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 8)), nn.Sequential(nn.Linear(8, 8))).double()
    _, report = run(model=model)
    assert [row.name for row in report.rows] == ["1.0.weight"]
    assert report.skipped["0.0.weight"] == "2 outputs and 8 inputs, fewer than a tile's 4 and 4"


def test_the_cost_is_linear_in_the_depth():
    def calls(depth, **settings):
        count = 0

        def note(*_):
            nonlocal count
            count += 1

        model = stack(blocks=depth)
        with nn.modules.module.register_module_forward_pre_hook(
            lambda module, _: note() if isinstance(module, nn.Sequential) and len(module) == 3 else None
        ):
            prune_blocks(model, batches(), "2:4", method="magnitude", **settings)
        return count - 1 - depth  # the first block shows what it returns, and each block in which order it reads

    for depth in (4, 8):
        assert (
            calls(depth) == depth * 3 * 5
        )  # three batches; two stages of two models, and the output of the pruned one
        assert calls(depth, goal="layer", by_stage=False) == depth * 3 * 2


def test_a_failure_leaves_whole_blocks():
    model, dense = stack(), stack()
    with torch.no_grad():
        for each in (model, dense):
            each[1][2].weight[0, 0] = float("nan")
    with pytest.raises(InvalidProblemError, match=r"^1.2.weight holds NaN.*The 1 blocks before are pruned"):
        run(model=model)
    assert bool((model[0][0].weight == 0).any())
    for index in (1, 2):
        for a, b in zip(model[index].parameters(), dense[index].parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_a_block_that_fails_half_way_is_as_it_was():
    class Fails(nn.Module):
        """Too large for the second matrix of its block."""

        def forward(self, x):
            return x * 1e200

    model = stack()
    model[1][1] = Fails()
    dense = copy.deepcopy(model)
    with pytest.raises(InvalidProblemError, match=r"^1.2.weight: its inputs hold NaN"):
        run(model=model)
    assert all(torch.equal(a, b) for a, b in zip(model[1].parameters(), dense[1].parameters(), strict=True))
    assert not same(model, dense)


def test_pruned_models_go_into_training():
    model, data = make("llama", torch.float32), tokens()
    report = prune_blocks(model, data, "2:4", method="wanda")
    names = [name for name in report.masks]
    sparsifier = sparsify(model, "2:4", masks=report.masks, schedule=Frozen(), include=names)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for batch in data:
        loss = model(**batch, labels=batch["input_ids"], use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        sparsifier.step()
    for name, mask in report.masks.items():
        module = model.get_submodule(name.removesuffix(".weight"))
        assert torch.equal(module.weight != 0, mask), name


def test_weights_without_values_are_refused_by_name():
    model = make("llama", torch.float32)
    model.model.layers[1].to("meta")
    with pytest.raises(InvalidProblemError, match=r"model.layers.1.\S+ .*are not in memory.*output="):
        prune_blocks(model, tokens(), "2:4")


@pytest.mark.parametrize("where", ["a block", "cpu", "disk"])
def test_offloaded_blocks_are_pruned_as_others(where, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    plain, model = make("llama"), make("llama")
    if where == "a block":
        accelerate.cpu_offload(model.model.layers[1], execution_device=torch.device("cpu"))
    elif where == "cpu":
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        accelerate.disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    assert model.model.layers[1].mlp.up_proj.weight.is_meta
    for one in (plain, model):
        prune_blocks(one, tokens(), "2:4", method="wanda")
    assert model.model.layers[1].mlp.up_proj.weight.is_meta
    with torch.no_grad():
        assert torch.equal(model(**tokens()[0]).logits, plain(**tokens()[0]).logits)


def test_hooks_of_accelerate_without_offloading_are_no_matter():
    accelerate = pytest.importorskip("accelerate")
    models = make("llama"), make("llama")
    accelerate.dispatch_model(models[1], {"": "cpu"}, force_hooks=True)
    for model in models:
        prune_blocks(model, tokens(), "2:4", method="wanda")
    assert same(*models)


class _HandsOn(nn.Module):
    """A block that gives the next one more than hidden states."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x, more=None):
        return self.linear(x), x.sum() if more is None else more


class _Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(_HandsOn() for _ in range(3))

    def forward(self, x):
        more = None
        for layer in self.layers:
            x, more = layer(x, more)
        return x


def test_blocks_that_hand_on_more_than_hidden_states_are_refused():
    with pytest.raises(InvalidProblemError, match="block 1 reads more from the blocks before it"):
        run(model=_Chain().double())


def test_settings_that_cannot_be_meant():
    for settings, text in (
        ({"goal": "both"}, "goal 'both'"),
        ({"memory": -1}, "memory -1"),
        ({"exclude": "*"}, "exclude is the text"),
        ({"output": "x"}, "output goes with a directory"),
        ({"dtype": torch.float32}, "dtype and device go with a directory"),
        ({"data": [torch.full((4, 8), float("nan"), dtype=torch.float64)]}, "before the first block hold NaN"),
        ({"blocks": "nothing"}, "no list of modules"),
        ({"method": get_method("wanda", refit=False), "data": iter(batches())}, "only once"),
    ):
        with pytest.raises(InvalidProblemError, match=text):
            run(**settings)


@pytest.mark.parametrize("tuning", [None, Tuning(epochs=2)])
def test_errors_behind_blocks_are_those_of_the_hidden_states(tuning):
    dense, data = make("llama"), tokens()
    model = copy.deepcopy(dense)
    report = prune_blocks(model, data, "2:4", method="wanda", tuning=tuning)
    assert [block.name for block in report.blocks] == ["model.layers.0", "model.layers.1"]
    for index, block in enumerate(report.blocks):
        got, wanted = (torch.cat(_behind(each, index, data)) for each in (model, dense))
        expected = float((got - wanted).square().sum() / wanted.square().sum())
        assert block.error == pytest.approx(expected, rel=1e-9)
        assert report.document()["blocks"][index] == {"name": block.name, "error": block.error}


def test_without_the_dense_model_errors_behind_blocks_are_not_known():
    report = prune_blocks(make("llama"), tokens(), "2:4", method="wanda", goal="layer")
    assert [block.error for block in report.blocks] == [None, None]


def _behind(model, index, data):
    """The hidden states behind a block, batch by batch."""
    found = []
    hook = model.model.layers[index].register_forward_hook(lambda _, __, output: found.append(output.detach().clone()))
    outputs(model, data)
    hook.remove()
    return found

"""Every kind of model: what is pruned, what is not, and that the report tells it."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")

from tests.nn.blockwise.tiny_models import CONFIGS, make, outputs, tokens
from tmask.nn import get_method, prune_blocks


@pytest.fixture(scope="module", params=CONFIGS)
def pruned(request):
    """A dense model, the pruned one, the report, and the batches."""
    dense, batches = make(request.param), tokens()
    model = copy.deepcopy(dense)
    return dense, model, prune_blocks(model, batches, "2:4", method="wanda"), batches


def test_masks_are_full_and_weights_are_positive_zero_off_them(pruned):
    _, model, report, _ = pruned
    for name, mask in report.masks.items():
        weight = model.get_parameter(name)
        assert mask.shape == weight.shape
        assert bool((weight[~mask] == 0).all())
        assert not bool(torch.signbit(weight[~mask]).any())
        for matrix in mask if mask.ndim == 3 else mask[None]:
            tiles = matrix.unfold(0, 4, 4).unfold(1, 4, 4)  # sides are multiples of 4
            assert bool((tiles.sum(2) == 2).all())
            assert bool((tiles.sum(3) == 2).all())


def test_every_parameter_of_two_axes_is_pruned_or_has_its_reason(pruned):
    _, model, report, _ = pruned
    rows = {row.name.partition("[")[0] for row in report.rows}
    names = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    assert rows == report.masks.keys()
    assert rows | report.skipped.keys() == names
    assert not rows & report.skipped.keys()
    reasons = {
        "embed": "an embedding",
        "wte": "an embedding",
        "wpe": "an embedding",
        "gate.weight": "it routes samples to experts",
        "router": "it routes samples to experts",
        "_bias": "no product of a whole matrix with it was seen",
    }
    for name, reason in report.skipped.items():
        expected = next((value for part, value in reasons.items() if part in name), "in no block")
        assert reason == expected, name


def test_what_is_not_pruned_stays_as_it_was(pruned):
    dense, model, report, _ = pruned
    for name in report.skipped:
        if not name.endswith("_bias"):  # of experts: they take up what their matrices lose
            assert torch.equal(model.get_parameter(name), dense.get_parameter(name)), name


def test_errors_are_those_that_hooks_show(pruned):
    dense, model, report, batches = pruned
    gave = [_module_outputs(each, report, batches) for each in (dense, model)]
    assert gave[0]
    for row in report.rows:
        if row.name not in gave[0]:
            assert "experts" in row.name
            continue
        target, missed = gave[0][row.name], gave[1][row.name] - gave[0][row.name]
        if getattr(model.get_submodule(row.name.removesuffix(".weight")), "bias", None) is not None:
            target = target - target.mean(0)  # the bias takes up the mean, and has taken it up
            torch.testing.assert_close(missed.mean(0), torch.zeros_like(missed[0]), rtol=0, atol=1e-9)
        assert row.error == pytest.approx(float(missed.square().sum() / target.square().sum()), rel=1e-6), row.name
        assert row.samples == len(target)


def test_it_is_nearer_to_the_dense_model_than_magnitude_pruning(pruned):
    dense, model, _, batches = pruned
    other = copy.deepcopy(dense)
    prune_blocks(other, batches, "2:4", method=get_method("magnitude", refit=False), goal="layer", by_stage=False)
    target = outputs(dense, batches)
    missed = [float((outputs(each, batches) - target).square().sum()) for each in (model, other)]
    assert missed[0] < missed[1]


def _module_outputs(model, report, batches):
    """What the modules of pruned matrices give, by the name of the matrix."""
    found, hooks = {}, []
    for name in report.masks:
        if not name.endswith(".weight"):
            continue

        def note(module, inputs, output, name=name):
            found.setdefault(name, []).append(output.flatten(0, -2).clone())  # the model may go on in place

        hooks.append(model.get_submodule(name.removesuffix(".weight")).register_forward_hook(note))
    outputs(model, batches)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}

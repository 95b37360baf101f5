"""AdaPrune: exact least squares, what is never worse, masks that hold, batch norms, and inputs that are refused."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tmask
from tests.nn.calibration.test_gram import filled
from tests.nn.pruning_models import conv_net, images, mlp, rows
from tmask.errors import InvalidProblemError, UnknownSolverError
from tmask.nn import adaprune, collect_grams, reconstruct
from tmask.nn.calibration.gram import Gram
from tmask.nn.calibration.linear_view import LinearView
from tmask.nn.fitting.adam import adam
from tmask.nn.fitting.folding import fold_means
from tmask.nn.fitting.least_squares import least_squares
from tmask.nn.pruning import layerwise as pruning

METHODS = ("least-squares", "adam", "none")


def random_mask(seed, shape=(1, 3, 6)):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_without_damping_each_row_is_lstsq_on_its_support(seed):
    x, y, gram = filled(seed=seed)
    mask = random_mask(seed)
    found = least_squares(gram, torch.zeros(1, 3, 6, dtype=torch.float64), mask, 0.0)
    for row in range(3):
        support = mask[0, row].nonzero()[:, 0]
        expected = torch.linalg.lstsq(x[0][:, support], y[0][:, row : row + 1]).solution[:, 0]
        torch.testing.assert_close(found[0, row, support], expected, rtol=1e-8, atol=1e-9)
        assert not found[0, row, ~mask[0, row]].any()


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(1e-4, 10))
def test_damping_draws_to_the_start(seed, damping):
    """The same problem with one more equation a weight."""
    x, y, gram = filled(seed=seed)
    mask, start = random_mask(seed), torch.randn(1, 3, 6, dtype=torch.float64)
    start = start * mask
    found = least_squares(gram, start, mask, damping)
    strength = (damping * x[0].square().sum() / 6).sqrt()
    for row in range(3):
        support = mask[0, row].nonzero()[:, 0]
        left = torch.cat([x[0][:, support], strength * torch.eye(len(support), dtype=torch.float64)])
        right = torch.cat([y[0][:, row], strength * start[0, row, support]])
        expected = torch.linalg.lstsq(left, right[:, None]).solution[:, 0]
        torch.testing.assert_close(found[0, row, support], expected, rtol=1e-7, atol=1e-8)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-6, 1e-2, 1.0]), st.booleans())
def test_no_refit_is_worse_than_its_start(seed, damping, few):
    _, _, gram = filled(samples=4 if few else 50, seed=seed)
    mask = random_mask(seed)
    start = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * mask
    for found in (least_squares(gram, start, mask, damping), adam(gram, start, mask, steps=20, learning_rate=1.0)):
        assert (gram.errors(found) <= gram.errors(start)).all()
        assert not found[~mask].any()


def test_exact_is_never_worse_than_adam():
    _, _, gram = filled()
    mask = random_mask(5)
    start = torch.zeros(1, 3, 6, dtype=torch.float64)
    exact, stepped = least_squares(gram, start, mask, 0.0), adam(gram, start, mask, steps=2000, learning_rate=1e-2)
    assert (gram.errors(exact) <= gram.errors(stepped) + 1e-9).all()
    torch.testing.assert_close(exact, stepped, rtol=0.05, atol=0.05)  # and Adam comes near


def test_inputs_that_are_always_zero_keep_their_weights():
    gram = Gram.zeros(LinearView(nn.Linear(6, 3)))
    x = torch.randn(1, 30, 6, dtype=torch.float64)
    x[:, :, 2] = 0
    gram.add(x, torch.randn(1, 30, 3, dtype=torch.float64))
    start, mask = torch.ones(1, 3, 6, dtype=torch.float64), torch.ones(1, 3, 6, dtype=torch.bool)
    for damping in (0.0, 0.01):
        assert (least_squares(gram, start, mask, damping)[:, :, 2] == 1).all()


def test_folding_keeps_the_sum_of_each_group():
    weight = torch.arange(1.0, 25).reshape(1, 2, 12)  # 6 inputs, 2 positions
    mask = torch.zeros(1, 2, 6, 2, dtype=torch.bool)
    mask[:, :, [0, 2, 4]] = True
    mask = mask.reshape(1, 2, 12)
    folded = fold_means(weight, mask, 4, 2)
    assert not folded[~mask].any()
    before, after = (t.reshape(2, 6, 2) for t in (weight, folded))
    torch.testing.assert_close(after[:, :4].sum(1), before[:, :4].sum(1))
    torch.testing.assert_close(after[:, 4:].sum(1), before[:, 4:].sum(1))
    # Inputs 1 and 3 of the first output at position 0 weigh 3 and 7; half goes to inputs 0 and 2 each.
    assert after[0, :4, 0].tolist() == [1 + 5, 0, 5 + 5, 0]


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("transposable", [True, False])
def test_masks_hold_and_errors_fall(sequential, method, transposable):
    model, data = conv_net(), images()
    dense = copy.deepcopy(model)
    adam = {"steps": 50} if method == "adam" else {}
    report = adaprune(model, data, "2:4", transposable=transposable, method=method, sequential=sequential, **adam)
    assert [row.layer for row in report.layers] == ["conv1.weight", "conv2.weight"]
    assert set(report.skipped) == {"stem.weight", "head.weight"}
    for row in report.layers:
        layer = row.layer.removesuffix(".weight")
        module = model.get_submodule(layer)
        mask = report.masks[row.layer]
        assert not module.weight[~mask].any()
        assert row.density == 0.5
        assert row.error <= row.error_masked * (1 + 1e-6)
        by_input = mask.reshape(mask.shape[0], -1, 4, 3, 3).sum(2)
        assert (by_input == 2).all()
        if transposable:
            tmask.check_mask(mask, "2:4", groups=module.groups)
        if sequential and layer == "conv2":
            continue  # its inputs are those of the pruned model, which is gone in part by now
        before = torch.cat([dense_output(dense, layer, batch) for batch in data])
        after = torch.cat([dense_output(dense, layer, batch, module) for batch in data])
        free = layer == "conv1"  # a batch norm takes up its mean
        axes = (0, 2, 3)
        if free:
            before, after = before - before.mean(axes, keepdim=True), after - after.mean(axes, keepdim=True)
        else:
            bias = dense.get_submodule(layer).bias.reshape(1, -1, 1, 1)
            before, after = before - bias, after - bias
            if method == "none":
                assert torch.equal(module.bias, dense.get_submodule(layer).bias)
                error = float(((after - before).square().sum() / before.square().sum()).detach())
                assert row.error == pytest.approx(error, rel=1e-3, abs=1e-6)
                continue
            mean = (before.mean(axes, keepdim=True)).square().sum() * before[:, 0].numel()
            torch.testing.assert_close(before.mean(axes), after.mean(axes), rtol=1e-4, atol=1e-5)
        target = before.square().sum() - (0 if free else mean)
        error = float(((after - before).square().sum() / target).detach())
        assert row.error == pytest.approx(error, rel=1e-3, abs=1e-6)
    for name in ("stem", "head"):
        assert torch.equal(model.get_submodule(name).weight, dense.get_submodule(name).weight)


def dense_output(model, name, batch, replaced=None):
    """The output that a layer, or another one in its place, gives in a model."""
    seen = []
    handle = model.get_submodule(name).register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        model(batch)
        handle.remove()
        return (replaced or model.get_submodule(name))(seen[0])


def test_a_pruning_that_keeps_everything_changes_nothing():
    model, data = mlp(), rows()
    dense = copy.deepcopy(model)
    report = adaprune(model, data, "4:4")
    for row in report.layers:
        assert row.error < 1e-9
    for batch in data:
        torch.testing.assert_close(model(batch), dense(batch), rtol=1e-4, atol=1e-5)


def test_the_last_layer_is_fitted_best_to_what_reaches_it():
    """Sequential: given the layers before it, no other weights on the mask come nearer to the dense outputs."""
    model, data = mlp(), rows()
    dense = copy.deepcopy(model)
    adaprune(model, data, "2:4", damping=0.0, exclude=["4"])
    x = torch.cat([model[:2](batch) for batch in data]).detach().double()
    y = torch.cat([dense[:3](batch) for batch in data]).detach().double()
    for output in range(16):
        support = model[2].weight[output].nonzero()[:, 0]
        best = torch.linalg.lstsq(x[:, support], y[:, output : output + 1]).solution[:, 0]
        found = model[2].weight[output, support].detach().double()
        torch.testing.assert_close(found, best, rtol=1e-3, atol=1e-4)


def test_batch_norms_have_the_statistics_of_the_pruned_model():
    model, data = conv_net(), [torch.cat(images())]
    adaprune(model, data, "2:4")
    seen = []
    model.bn1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    model(data[0])
    # bn0 normalises by its unbiased variance here, and by that of the batch while bn1 is set.
    torch.testing.assert_close(model.bn1.running_mean, seen[0].mean((0, 2, 3)), rtol=5e-4, atol=1e-4)
    torch.testing.assert_close(model.bn1.running_var, seen[0].var((0, 2, 3)), rtol=1e-3, atol=1e-5)


def test_the_batch_norm_behind_a_layer_is_set_before_the_next_layer_is_read(monkeypatch):
    """From the sums alone, without the pass at the end."""
    monkeypatch.setattr(pruning, "recalibrate", lambda model, calibration: 0)
    model, data = conv_net(), images()
    adaprune(model, data, "2:4")
    seen = []
    model.bn1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    model(torch.cat(data))
    torch.testing.assert_close(model.bn1.running_mean, seen[0].mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.bn1.running_var, seen[0].var((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_batch_norms_stay_if_asked():
    model = conv_net()
    before = copy.deepcopy(model.bn1.state_dict())
    report = adaprune(model, images(), "2:4", update_batch_norm=False)
    assert report.batch_norms == 0
    for name, tensor in model.bn1.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_sums_of_one_pass_serve_several_prunings():
    model, data = conv_net(), images()
    grams = collect_grams(model, data)
    assert set(grams) == {"stem.weight", "conv1.weight", "conv2.weight", "head.weight"}
    for pattern in ("1:4", "2:4"):
        one, two = copy.deepcopy(model), copy.deepcopy(model)
        adaprune(one, data, pattern, sequential=False)
        adaprune(two, data, pattern, sequential=False, grams=grams)
        for a, b in zip(one.parameters(), two.parameters(), strict=True):
            assert torch.equal(a, b)
    with pytest.raises(InvalidProblemError, match="sequential=False"):
        adaprune(model, data, "2:4", grams=grams)
    with pytest.raises(InvalidProblemError, match=r"nothing for layer 'conv2\.weight'"):
        adaprune(model, data, "2:4", sequential=False, grams={"conv1": grams["conv1"]})


def test_masks_from_elsewhere():
    model, data = conv_net(), images()
    mask = torch.rand(model.stem.weight.shape) < 0.5
    report = reconstruct(model, data, {"stem": mask}, damping=0.0)
    assert [row.layer for row in report.layers] == ["stem.weight"]
    assert torch.equal(model.stem.weight != 0, mask)
    assert report.layers[0].error < report.layers[0].error_masked


def test_patterns_by_layer():
    model = conv_net()
    report = adaprune(model, images(), {"conv2": "1:4"})
    assert [(row.layer, row.pattern, row.density) for row in report.layers] == [("conv2.weight", "1:4", 0.25)]
    assert report.skipped["conv1"] == "no pattern is given for it"


def test_ends_are_pruned_if_included():
    report = adaprune(mlp(), rows(), "2:4", include=["4", "2"])
    assert [row.layer for row in report.layers] == ["2.weight", "4.weight"]
    assert report.skipped == {"0.weight": "not included"}
    report = adaprune(mlp(), rows(), "2:4", skip_ends=False)
    assert [row.layer for row in report.layers] == ["0.weight", "2.weight", "4.weight"]


def test_progress_training_mode_and_half_precision():
    model, told = mlp().bfloat16().train(), []
    report = adaprune(model, [b.bfloat16() for b in rows()], "2:4", progress=lambda *args: told.append(args))
    assert told == [(0, 2, "0.weight"), (1, 2, "2.weight"), (2, 2, "")]
    assert model.training
    assert model[0].weight.dtype == torch.bfloat16
    assert all(row.error < row.error_masked for row in report.layers)


def test_a_layer_that_is_called_twice_is_fitted_to_both():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.inner(torch.tanh(self.inner(x))))

    torch.manual_seed(0)
    report = adaprune(Twice().eval(), rows(40, 8), "2:4")
    assert [(row.layer, row.samples) for row in report.layers] == [("inner.weight", 80)]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.unused = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight
        nn.utils.parametrizations.weight_norm(self.c)

    def forward(self, x):
        return self.c(self.b(self.a(x)))


def test_layers_that_cannot_be_pruned_say_why():
    with pytest.raises(InvalidProblemError) as caught:
        adaprune(Tied(), rows(40, 8), "2:4", skip_ends=False)
    for text in ("no eligible layer", "a.weight: its weight is shared", "b.weight: its weight is shared",
                 "c.weight: its weight is param",
                 "unused.weight: the first batch of the calibration data does not reach it"):  # fmt: skip
        assert text in str(caught.value)


REFUSED = {
    "one tensor": (lambda: torch.zeros(8, 16), {}, "give a list of batches"),
    "no iterable": (lambda: 5, {}, "is a int; give an iterable"),
    "empty": (list, {}, "calibration is empty"),
    "generator": (lambda: (b for b in rows()), {}, "can be read only once"),
    "wrong width": (lambda: rows(40, 8), {}, r"batch 0 \(float32 tensor of shape \(40, 8\)\) does not fit"),
    "with labels": (lambda: [(rows()[0], torch.zeros(50))], {}, "no labels"),
    "numbers": (lambda: [1.0], {}, "not a float"),
    "few samples": (
        lambda: rows(5),
        {"damping": 0.0},
        r"layer '0\.weight': 5 samples are too few to fit 8 .* at least 9",
    ),
    "singular": (lambda: [b[:, :1].expand(-1, 16) for b in rows()], {"damping": 0.0}, r"layer '0\.weight': .*singular"),
    "NaN": (lambda: [rows()[0] * float("nan")], {}, r"layer '0\.weight': its inputs hold NaN"),
    "no layer": (rows, {"exclude": ["*"]}, r"no eligible layer .*0\.weight: excluded"),
    "too wide a pattern": (rows, {"pattern": "16:32"}, "16 inputs and 16 outputs, fewer than the 32"),
    "no such layer": (rows, {"include": ["conv*"]}, r"'conv\*' matches no layer; the model has 0\.weight, 2\.weight"),
    "a text of globs": (rows, {"exclude": "0"}, r"give a list of globs: \['0'\]"),
    "method": (rows, {"method": "sgd"}, "choose one of least-squares, adam, none"),
    "damping": (rows, {"damping": -1.0}, "at least 0"),
    "steps": (rows, {"steps": 0}, "steps 0 must be a whole number"),
    "pattern of no layer": (rows, {"pattern": {"7": "2:4"}}, "the model has no such layer"),
    "pattern of an excluded layer": (
        rows,
        {"pattern": {"4": "2:4"}, "exclude": ["4"]},
        "'4.weight', which is not pruned: excluded",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_and_the_model_stays(case):
    make, arguments, says = REFUSED[case]
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    arguments = {"pattern": "2:4"} | arguments
    with pytest.raises(InvalidProblemError, match=says):
        adaprune(model, make(), **arguments)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_an_iterable_that_runs_dry_is_noticed_and_the_model_stays():
    class Once:
        def __init__(self):
            self.left = rows()

        def __iter__(self):
            while len(self.left) > 1:
                yield self.left.pop()

    model = mlp()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InvalidProblemError, match="batches in its first pass and"):
        adaprune(model, Once(), "2:4")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_few_samples_with_damping_are_remarked():
    report = adaprune(mlp(), rows(5), "2:4")
    assert report.layers[0].remark == "5 samples for 8 weights of each output: damping decides the rest"
    assert report.layers[0].error <= report.layers[0].error_masked


def test_an_interrupt_half_way_restores_the_model():
    model = mlp()
    before = copy.deepcopy(model.state_dict())

    def stop(done, total, name):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adaprune(model, rows(), "2:4", progress=stop)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    with pytest.raises(UnknownSolverError, match=r"layer '0\.weight'"):
        adaprune(model, rows(), "2:4", solver="nope")


def test_masks_that_do_not_fit_are_refused():
    for masks, says in (
        ({}, "masks must be a mapping of at least one"),
        ({"2": torch.ones(16, 16)}, "float32 of shape"),
        (
            {"2": torch.ones(4, 4, dtype=torch.bool)},
            r"of shape \(4, 4\); give .* of shape \(16, 16\)",
        ),
        ({"9": torch.ones(4, 4, dtype=torch.bool)}, "matches no layer"),
    ):
        with pytest.raises(InvalidProblemError, match=says):
            reconstruct(mlp(), rows(), masks)


def test_batches_of_any_form():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x, scale):
            return self.b(torch.relu(self.a(x)) * scale)

    torch.manual_seed(0)
    dense = Two().eval()
    found = []
    for data, forward in (
        ([(b, 2.0) for b in rows(40, 8)], None),
        ([{"x": b, "scale": 2.0} for b in rows(40, 8)], None),
        ([[b, "label"] for b in rows(40, 8)], lambda model, batch: model(batch[0], 2.0)),
    ):
        model = copy.deepcopy(dense)
        adaprune(model, data, "2:4", skip_ends=False, forward=forward)
        found.append(model.b.weight)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])

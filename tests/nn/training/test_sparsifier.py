import copy

import numpy as np
import pytest
import torch
from torch import nn

import tmask
from tests.nn.models import batch, mlp, train
from tmask import nn as tnn

DYNAMIC = tnn.Periodic(every=2)


def sgd(model, lr=5.0):
    """Fast enough that masks change."""
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9)


def test_the_figures_of_a_renewal_are_those_of_the_masks():
    model = mlp()
    optimizer = sgd(model)
    renewals = []
    sparsifier = tnn.sparsify(model, schedule=DYNAMIC, optimizer=optimizer, on_renewal=renewals.append)
    before = [layer.masked.mask.clone() for layer in sparsifier.layers]
    train(model, optimizer, 2)
    assert [renewal.step for renewal in renewals] == [0, 2]
    renewal = sparsifier.last_renewal
    assert renewal is renewals[-1]
    solutions = [tmask.solve(layer.weight, "2:4") for layer in sparsifier.layers]
    flips = [(old != s.mask).sum().item() for old, s in zip(before, solutions, strict=True)]
    assert min(flips) > 0
    metrics = sparsifier.metrics()
    assert metrics["flip_rate/0.weight"] == flips[0] / 128
    assert metrics["flip_rate/2.weight"] == flips[1] / 192
    assert metrics["flip_rate"] == sum(flips) / 320
    assert metrics["retained/0.weight"] == solutions[0].retained
    assert metrics["retained"] == pytest.approx(sum(s.objective for s in solutions) / sum(s.total for s in solutions))
    assert metrics["gap"] == metrics["gap/2.weight"] == 0
    assert metrics["step"] == 2
    assert metrics["seconds"] >= metrics["seconds/0.weight"] + metrics["seconds/2.weight"] > 0
    assert all(isinstance(value, int | float) for value in metrics.values())


def test_the_first_masks_flip_what_they_prune():
    model = mlp()
    sparsifier = tnn.sparsify(model, "1:4")
    assert sparsifier.metrics()["flip_rate"] == 0.75


def test_before_the_first_renewal_there_are_no_figures():
    assert tnn.sparsify(mlp(), schedule=tnn.Periodic(begin=1)).metrics() == {}


def test_step_returns_the_renewal_and_counts():
    model = mlp()
    sparsifier = tnn.sparsify(model, schedule=DYNAMIC)
    assert sparsifier.step() is None
    assert sparsifier.step() is sparsifier.last_renewal
    assert sparsifier.steps == 2


def test_without_certificate_no_gap_is_claimed():
    sparsifier = tnn.sparsify(mlp(), certify=False)
    assert sparsifier.report()[0].gap is None
    assert not any(key.startswith("gap") for key in sparsifier.metrics())


def test_a_heuristic_reports_its_proven_gap():
    model = mlp()
    weight = model[0].weight.detach().clone()
    solver = tmask.get_solver("random-best", samples=1)
    sparsifier = tnn.sparsify(model, solver=solver)
    expected = tmask.solve(weight, "2:4", solver)
    assert sparsifier.report()[0].gap == expected.optimality_gap > 0
    assert sparsifier.metrics()["gap"] > 0


def test_a_solver_can_be_an_object_and_a_score_anything():
    model = mlp()
    score = {"0.weight": batch((16, 8), 1).abs(), "2.weight": batch((12, 16), 2).abs()}
    solver = tmask.get_solver("random-best", samples=3, seed=1)
    sparsifier = tnn.sparsify(model, solver=solver, score=lambda name, weight: score[name])
    for layer in sparsifier.layers:
        expected = tmask.solve(score[layer.name], "2:4", solver)
        assert torch.equal(layer.masked.mask, expected.mask)
        assert layer.worth.objective == expected.objective


def test_the_report_reads_as_a_table():
    model = nn.ModuleDict({"embed": nn.Embedding(8, 8), "body": mlp(), "head": nn.Linear(8, 3)})
    lines = str(tnn.sparsify(model, exclude=["body.2"], backend="masked").report()).splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [["body.0.weight", "16x8", "2:4"], ["embed.weight", "8x8", "-"]]
    assert lines[0].split() == ["layer", "shape", "pattern", "retained", "gap", "backend", "remark"]
    assert lines[1].endswith("masked")
    assert lines[3].endswith("skipped  excluded")
    assert lines[-1] == "1 of 4 weights masked"
    assert all(line == line.rstrip() for line in lines)


def test_masks_from_the_user_are_taken():
    model = mlp()
    masks = {"0.weight": tmask.solve(batch((16, 8), 9), "2:4").mask, "2.weight": np.tile(np.eye(4, dtype=bool), (3, 4))}
    sparsifier = tnn.sparsify(model, {"0": "2:4", "2": "1:4"}, masks=masks)
    for layer in sparsifier.layers:
        assert torch.equal(layer.masked.mask, torch.as_tensor(masks[layer.name]))
        judged = tmask.certify(layer.weight, masks[layer.name], layer.pattern)
        assert layer.worth.objective == judged.objective
        assert layer.worth.optimality_gap == judged.optimality_gap > 0


def test_masks_of_grouped_convolutions_are_judged_by_group():
    torch.manual_seed(0)
    layer = nn.Conv2d(12, 12, 3, groups=2)  # 6 x 6 in each group, so that blocks lie elsewhere than in 12 x 6
    mask = tmask.solve(layer.weight, "2:4", groups=2).mask
    sparsifier = tnn.sparsify(layer, masks={"weight": mask})
    assert sparsifier.report()[0].gap == 0
    sparsifier.remove()
    with pytest.raises(tmask.InvalidMaskError):
        tnn.sparsify(layer, masks={"weight": tmask.solve(layer.weight, "2:4").mask})


@pytest.mark.parametrize(
    ("masks", "error", "says"),
    [
        ({"0.weight": torch.ones(8, 16, dtype=torch.bool)}, tmask.InvalidProblemError, r"'0.weight'\]: mask has shape"),
        ({"0.weight": torch.ones(16, 8)}, tmask.InvalidProblemError, "must be bool"),
        ({"0.weight": torch.ones(16, 8, dtype=torch.bool)}, tmask.InvalidMaskError, "row 0, exactly 2 allowed"),
        ({"0.weight": [[True]]}, tmask.InvalidProblemError, "mask is a list"),
        ({"7": torch.ones(16, 8, dtype=torch.bool)}, tmask.InvalidProblemError, "masks for 7: no such layer"),
    ],
)
def test_masks_that_do_not_fit_are_errors(masks, error, says):
    model = mlp()
    names = list(model.state_dict())
    with pytest.raises(error, match=says):
        tnn.sparsify(model, masks=masks)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("schedule", [tnn.Periodic(begin=5), tnn.Periodic(ramp=50)])
def test_masks_that_would_be_ignored_are_an_error(schedule):
    masks = {"0.weight": tmask.solve(batch((16, 8)), "2:4").mask}
    with pytest.raises(tmask.InvalidProblemError, match="masks would be ignored"):
        tnn.sparsify(mlp(), schedule=schedule, masks=masks)


class Run:
    """A training run that can be stopped and resumed."""

    def __init__(self, seed=0, pattern="2:4", schedule=None):
        self.model = mlp(seed)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 0.05)
        schedule = schedule or tnn.Periodic(every=3, begin=1, ramp=6, dense_from=20)
        self.sparsifier = tnn.sparsify(
            self.model, pattern, schedule=schedule, optimizer=self.optimizer, decay=tnn.MaskedDecay(1e-2)
        )

    def parts(self):
        return {"model": self.model, "optimizer": self.optimizer, "sparsifier": self.sparsifier}

    def save(self, path):
        torch.save({name: part.state_dict() for name, part in self.parts().items()}, path)

    def load(self, path):
        for name, state in torch.load(path, weights_only=True).items():
            self.parts()[name].load_state_dict(state)


@pytest.mark.parametrize("stop", [1, 3, 4, 11, 21])
def test_a_resumed_run_has_the_same_losses_bit_for_bit(stop, tmp_path):
    whole = Run()
    losses = train(whole.model, whole.optimizer, 24)
    first = Run()
    train(first.model, first.optimizer, stop)
    first.save(tmp_path / "checkpoint")
    resumed = Run(seed=1)
    resumed.load(tmp_path / "checkpoint")
    assert resumed.sparsifier.steps == stop
    assert resumed.sparsifier.report() == first.sparsifier.report()
    assert train(resumed.model, resumed.optimizer, 24 - stop, stop) == losses[stop:]
    assert all(torch.equal(a, b) for a, b in zip(whole.model.buffers(), resumed.model.buffers(), strict=True))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"pattern": "1:4"}, "layer '0.weight': the checkpoint was trained with pattern 2:4, not 1:4"),
        ({"pattern": {"0": "2:4"}}, "masks on other layers; these differ: 2.weight"),
        ({"schedule": DYNAMIC}, "trained with schedule .*'ramp': 6.*, not .*'every': 2"),
    ],
)
def test_a_state_of_another_run_is_refused(other, says):
    state = Run().sparsifier.state_dict()
    with pytest.raises(tmask.InvalidProblemError, match=says):
        Run(**other).sparsifier.load_state_dict(state)


def test_a_resumed_run_has_no_figures_of_masks_that_it_dropped(tmp_path):
    first = Run(schedule=tnn.Periodic(every=3))
    train(first.model, first.optimizer, 4)
    first.save(tmp_path / "checkpoint")
    resumed = Run(schedule=tnn.Periodic(every=3))
    assert resumed.sparsifier.metrics()["step"] == 0
    resumed.load(tmp_path / "checkpoint")
    assert resumed.sparsifier.metrics() == {}
    train(resumed.model, resumed.optimizer, 2, 4)
    assert resumed.sparsifier.metrics()["step"] == 6


def test_states_of_model_and_sparsifier_belong_together():
    run = Run(schedule=tnn.Periodic(every=1))
    early = copy.deepcopy(run.model.state_dict())
    train(run.model, run.optimizer, 6)
    other = Run(schedule=tnn.Periodic(every=1))
    other.model.load_state_dict(early)
    with pytest.raises(tmask.InvalidProblemError, match=r"layer '0.weight': its mask is not the one .* of step 6 "):
        other.sparsifier.load_state_dict(run.sparsifier.state_dict())
    assert other.sparsifier.steps == 0
    run.sparsifier.layers[1].masked.mask.fill_(True)
    with pytest.raises(tmask.InvalidMaskError, match=r"layer '2.weight': the mask is not the 2:4 one"):
        run.sparsifier.load_state_dict(run.sparsifier.state_dict())


@pytest.mark.parametrize("first", ["optimizer", "sparsify"])
def test_an_optimizer_state_from_the_other_side_of_sparsify_is_refused(first):
    run = Run()  # made before sparsify
    train(run.model, run.optimizer, 2)
    model = mlp()
    schedule = run.sparsifier.schedule
    if first == "optimizer":
        optimizer = torch.optim.AdamW(model.parameters(), 0.05)
        sparsifier = tnn.sparsify(model, schedule=schedule)
    else:
        sparsifier = tnn.sparsify(model, schedule=schedule)
        optimizer = torch.optim.AdamW(model.parameters(), 0.05)
    sparsifier.watch(optimizer)
    model.load_state_dict(run.model.state_dict())
    state = run.sparsifier.state_dict()
    sparsifier.load_state_dict(state)  # an optimizer without a state has no order to keep
    optimizer.load_state_dict(run.optimizer.state_dict())
    if first == "optimizer":
        sparsifier.load_state_dict(state)
    else:
        with pytest.raises(tmask.InvalidProblemError, match=r"in another order .* make the optimizer on the same side"):
            sparsifier.load_state_dict(state)


def test_the_worth_of_a_mask_keeps_its_form_in_a_state():
    run = Run()
    state = run.sparsifier.state_dict()
    layer = run.sparsifier.layers[0]
    state["layers"][layer.name]["score"] = [3.0, 4.0, None]  # objective, total and bound, by order
    run.sparsifier.load_state_dict(state)
    assert layer.worth == tmask.Worth(objective=3.0, total=4.0, dual_bound=None)
    assert run.sparsifier.state_dict() == state


def test_what_is_no_state_is_refused():
    sparsifier = Run().sparsifier
    with pytest.raises(tmask.InvalidProblemError, match="no state of a Sparsifier: it lacks layers, schedule"):
        sparsifier.load_state_dict({"steps": 3})


def test_an_optimizer_must_hold_the_weights():
    model = mlp()
    optimizer = sgd(copy.deepcopy(model))
    names = list(model.state_dict())
    with pytest.raises(tmask.InvalidProblemError, match=r"does not hold 2 of the 2 .*\(0.weight, 2.weight\)"):
        tnn.sparsify(model, optimizer=optimizer)
    assert list(model.state_dict()) == names
    assert not optimizer._optimizer_step_post_hooks
    half = torch.optim.SGD(model[0].parameters(), 0.1)
    with pytest.raises(tmask.InvalidProblemError, match=r"1 of the 2 .*\(2.weight\)"):
        tnn.sparsify(model, optimizer=half)
    model[2].weight.requires_grad_(False)
    tnn.sparsify(model, optimizer=half)


def test_several_optimizers_share_the_weights_and_count_together():
    model, twin = mlp(), mlp()
    parts = [torch.optim.SGD(model[0].parameters(), 1.0), torch.optim.SGD(model[2].parameters(), 1.0)]
    decay = tnn.MaskedDecay(0.1)
    sparsifier = tnn.sparsify(model, schedule=DYNAMIC, optimizer=parts, decay=decay)
    one = torch.optim.SGD(twin.parameters(), 1.0)
    other = tnn.sparsify(twin, schedule=DYNAMIC, optimizer=one, decay=decay)
    train(twin, one, 5)
    for step in range(5):
        model.zero_grad()
        model(batch((4, 8), step)).square().mean().backward()
        for optimizer in parts:
            assert sparsifier.steps == step
            optimizer.step()
    assert sparsifier.steps == other.steps == 5
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True))
    assert sparsifier.state_dict()["order"] == [0, 2]
    sparsifier.unwatch()
    with pytest.raises(tmask.InvalidProblemError, match=r"the 2 optimizers do not hold 1 of the 2 .*\(2.weight\)"):
        sparsifier.watch(parts[0], torch.optim.SGD(twin.parameters(), 1.0))
    sparsifier.watch(*parts, parts[0])
    parts[0].step()
    parts[1].step()
    assert sparsifier.steps == 6


def test_an_optimizer_is_watched_inside_its_wrapper():
    class Wrapper(torch.optim.Optimizer):
        def __init__(self, optimizer):
            self.optimizer = optimizer

    model = mlp()
    optimizer = sgd(model)
    sparsifier = tnn.sparsify(model, optimizer=Wrapper(optimizer))
    train(model, optimizer, 1)
    assert sparsifier.steps == 1


def test_a_deep_copy_watches_nothing_until_it_is_told_to():
    model = mlp()
    optimizer = sgd(model)
    sparsifier = tnn.sparsify(model, schedule=DYNAMIC, optimizer=optimizer)
    train(model, optimizer, 1)
    twin, twin_optimizer, copied = copy.deepcopy((model, optimizer, sparsifier))
    copied.watch(twin_optimizer)
    losses = train(model, optimizer, 4, 1)
    assert train(twin, twin_optimizer, 4, 1) == losses
    assert (copied.steps, sparsifier.steps) == (5, 5)
    assert copied.layers[0].owners[0].module is twin[0]


def test_a_watched_optimizer_counts_alone():
    model = mlp()
    sparsifier = tnn.sparsify(model, optimizer=sgd(model))
    with pytest.raises(tmask.InvalidProblemError, match="do not call step"):
        sparsifier.step()
    with pytest.raises(tmask.InvalidProblemError, match="watched already"):
        sparsifier.watch(sgd(model))
    sparsifier.remove()
    assert not any(isinstance(module, nn.utils.parametrize.ParametrizationList) for module in model.modules())


def test_an_optimizer_can_be_watched_later():
    model = mlp()
    sparsifier = tnn.sparsify(model, schedule=DYNAMIC)
    optimizer = sgd(model)
    sparsifier.watch(optimizer)
    train(model, optimizer, 3)
    assert sparsifier.steps == 3
    sparsifier.unwatch()
    train(model, optimizer, 1)
    sparsifier.step()
    assert sparsifier.steps == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("schedule", [tnn.Frozen(), tnn.Periodic(every=1, end=2), tnn.Periodic(begin=50)])
def test_between_renewals_too_a_weight_that_is_not_finite_names_layer_and_step(schedule, value, dtype):
    model = mlp(dtype=dtype)
    optimizer = sgd(model, 0.1)
    sparsifier = tnn.sparsify(model, schedule=schedule, optimizer=optimizer)
    for _ in range(3):
        optimizer.step()
    sparsifier.layers[1].weight.data[1, 5] = value
    with pytest.raises(tmask.InvalidProblemError, match=r"step 4, layer '2.weight': weight: 1 NaN or .*\(1, 5\)"):
        optimizer.step()


@pytest.mark.parametrize(("every", "noticed"), [(0, None), (3, 6), (None, 4)])
def test_how_often_weights_are_looked_at_can_be_chosen(every, noticed):
    model = mlp()
    optimizer = sgd(model, 0.1)
    sparsifier = tnn.sparsify(model, optimizer=optimizer, check_finite_every=every)
    for step in range(1, 8):
        if step == 4:
            sparsifier.layers[0].weight.data[0, 0] = torch.nan
        if step == noticed:
            with pytest.raises(tmask.InvalidProblemError, match=f"step {step}"):
                optimizer.step()
            return
        optimizer.step()
    assert noticed is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_names_layer_and_step(value):
    model = mlp()
    optimizer = sgd(model, 0.1)
    tnn.sparsify(model, schedule=DYNAMIC, optimizer=optimizer)
    train(model, optimizer, 3)
    model[2].parametrizations.weight.original.data[1, 5] = value
    with pytest.raises(tmask.InvalidProblemError, match=r"step 4, layer '2.weight': weight: .*\(1, 5\)"):
        optimizer.step()


def test_a_bad_weight_at_the_start_leaves_the_model_alone():
    model = mlp()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    names = list(model.state_dict())
    with pytest.raises(tmask.InvalidProblemError, match=r"step 0, layer '2\.weight'"):
        tnn.sparsify(model)
    assert list(model.state_dict()) == names
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"schedule": "periodic"}, tmask.InvalidProblemError, "schedule must be Frozen"),
        ({"backend": "cutlass"}, tmask.InvalidProblemError, "backend must be one of auto, masked, semi_structured"),
        ({"solver": "nothing"}, tmask.UnknownSolverError, "unknown solver 'nothing'"),
        ({"solver": "patterns", "pattern": "4:8"}, tmask.InvalidProblemError, "takes blocks up to 4 x 4"),
        ({"score": lambda name, weight: -weight.abs()}, tmask.InvalidProblemError, "layer '0.weight': score: "),
        ({"score": lambda name, weight: None}, tmask.InvalidProblemError, "layer '0.weight': score: the function gave"),
        ({"score": "wanda"}, tmask.InvalidProblemError, "score must be a function .*; got 'wanda'"),
        ({"solver": None}, tmask.InvalidProblemError, "^solver must be the name of a solver"),
        ({"decay": 6e-5}, tmask.InvalidProblemError, r"decay must be MaskedDecay\(rate\), or None; got 6e-05"),
        ({"include": None}, tmask.InvalidProblemError, "include must be a list of globs; got None"),
        ({"exclude": [nn.Linear]}, tmask.InvalidProblemError, "exclude must be a list of globs"),
        ({"include": "0"}, tmask.InvalidProblemError, r"include is the text '0'; give a list of globs: \['0'\]"),
        ({"filter_fn": 1}, tmask.InvalidProblemError, "filter_fn must be a function"),
        ({"masks": [1]}, tmask.InvalidProblemError, "masks must be a mapping"),
        ({"on_renewal": "x"}, tmask.InvalidProblemError, "on_renewal must be a function"),
        ({"check_finite_every": -1}, tmask.InvalidProblemError, "check_finite_every must be a number of steps"),
        ({"check_finite_every": True}, tmask.InvalidProblemError, "check_finite_every must be a number of steps"),
        ({"optimizer": []}, tmask.InvalidProblemError, "no optimizer is given to watch"),
        ({"optimizer": 3}, tmask.InvalidProblemError, "optimizer is a int; give a torch.optim.Optimizer"),
        ({"optimizer": mlp().parameters()}, tmask.InvalidProblemError, "optimizer is a generator"),
    ],
)
def test_settings_are_checked_before_the_model_is_touched(kwargs, error, says):
    model = mlp()
    with pytest.raises(error, match=says):
        tnn.sparsify(model, **kwargs)
    assert type(model[0]) is nn.Linear


def test_what_is_no_model_is_refused():
    with pytest.raises(tmask.InvalidProblemError, match=r"model must be a torch.nn.Module; got \["):
        tnn.sparsify([mlp()])


def test_inference_mode_is_no_place_to_sparsify():
    model = mlp()
    with torch.inference_mode(), pytest.raises(tmask.InvalidProblemError, match=r"inside torch.inference_mode"):
        tnn.sparsify(model)
    assert type(model[0]) is nn.Linear


def test_a_late_schedule_checks_its_solver_at_once():
    with pytest.raises(tmask.InvalidProblemError, match="takes blocks up to 4 x 4"):
        tnn.sparsify(mlp(), "4:8", solver="patterns", schedule=tnn.Periodic(begin=1000))

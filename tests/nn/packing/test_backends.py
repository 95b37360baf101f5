import pytest
import torch
from torch import nn

import tmask
from tests.nn.models import Attention
from tests.nn.unpacked_route import Unpacked, unpacked  # noqa: F401 - a fixture
from tmask import nn as tnn
from tmask.nn.layers.finding import FoundMask
from tmask.nn.packing import attaching, payoff, routes


def linear(rows=32, cols=64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(cols, rows)).to(torch.bfloat16)


@pytest.fixture
def paying(monkeypatch):
    """Packed products count as faster."""
    monkeypatch.setattr(payoff, "pays", lambda *args: (True, "measured"))


@pytest.mark.parametrize(
    ("model", "pattern", "says"),
    [
        (linear(), "2:4", "layer '0.weight': .*no sparse kernel runs on a cpu device"),
        (linear(), "4:8", "layer '0.weight': .*multiply 2:4 alone, not 4:8"),
        (nn.Conv2d(32, 32, 1), "2:4", "semi_structured takes nn.Linear alone, not weight of Conv2d"),
        (Attention(), "2:4", "takes nn.Linear alone, not in_proj_weight of MultiheadAttention"),
    ],
)
def test_what_cannot_be_packed_is_refused_when_asked_for(model, pattern, says):
    with pytest.raises(tmask.InvalidProblemError, match=says + r'.*exclude it, or use "auto"'):
        tnn.sparsify(model, pattern, backend="semi_structured")


@pytest.mark.usefixtures("unpacked")
def test_a_shape_that_the_kernels_do_not_take_is_refused():
    with pytest.raises(tmask.InvalidProblemError, match="shape 32x48; unpacked needs both sides in multiples of 32"):
        tnn.sparsify(linear(32, 48), backend="semi_structured")
    row = tnn.sparsify(linear(32, 48)).report()[0]
    assert (row.backend, "32x48" in row.reason) == ("masked", True)


@pytest.mark.usefixtures("unpacked")
def test_a_layer_with_a_forward_of_its_own_keeps_it():
    row = tnn.sparsify(Scaled(32, 32, dtype=torch.bfloat16)).report()[0]
    assert (row.backend, row.reason) == ("masked", "Scaled has a forward of its own")


class Scaled(nn.Linear):
    """Ten times what a linear layer gives."""

    def forward(self, x):
        return 10 * super().forward(x)


@pytest.mark.usefixtures("unpacked", "paying")
@pytest.mark.parametrize("own_first", [True, False])
def test_a_weight_is_packed_only_if_every_owner_can_be(own_first):
    plain, scaled = nn.Linear(32, 32, dtype=torch.bfloat16), Scaled(32, 32, dtype=torch.bfloat16)
    scaled.weight = plain.weight
    model = nn.ModuleList([scaled, plain] if own_first else [plain, scaled])
    row = tnn.sparsify(model).report()[0]
    assert (row.backend, row.reason) == ("masked", "Scaled has a forward of its own")
    x = torch.ones(8, 32, dtype=torch.bfloat16)
    assert torch.equal(scaled(x), 10 * nn.functional.linear(x, scaled.weight, scaled.bias))
    tnn.export(model)
    with pytest.raises(tmask.InvalidProblemError, match="Scaled has a forward of its own"):
        tnn.sparsify(model, backend="semi_structured")


@pytest.mark.usefixtures("unpacked", "paying")
def test_a_forward_that_was_put_on_the_module_itself_is_kept():
    model = linear(32, 32)
    own = model[0].forward
    model[0].forward = lambda x: 10 * own(x)
    sparsifier = tnn.sparsify(model)
    row = sparsifier.report()[0]
    assert (row.backend, row.reason) == (
        "masked",
        "this Linear was given a forward of its own, as hooks of accelerate do",
    )
    x = torch.ones(8, 32, dtype=torch.bfloat16)
    for _ in range(2):
        assert torch.equal(model(x), 10 * nn.functional.linear(x, model[0].weight, model[0].bias))
        sparsifier.remove()


@pytest.mark.usefixtures("unpacked")
def test_a_forward_that_is_put_around_ours_outlives_it():
    model = linear(32, 32)
    sparsifier = tnn.sparsify(model, backend="semi_structured")
    ours = model[0].forward
    model[0].forward = lambda x: 10 * ours(x)
    x = torch.ones(8, 32, dtype=torch.bfloat16)
    for _ in range(2):
        torch.testing.assert_close(model(x), 10 * nn.functional.linear(x, model[0].weight, model[0].bias))
        sparsifier.remove()


@pytest.mark.usefixtures("unpacked")
def test_a_replica_for_data_parallel_multiplies_with_its_own_weight():
    model = linear(32, 32)
    tnn.sparsify(model, backend="semi_structured")
    replica = model[0]._replicate_for_data_parallel()
    assert "forward" not in vars(replica)
    assert not attaching.attached(replica)
    assert attaching.attached(model[0])


@pytest.mark.usefixtures("unpacked", "paying")
@pytest.mark.parametrize("solver", ["greedy-keep", "bi-nm"])
def test_auto_goes_on_masked_with_a_heuristic_that_leaves_rows_short(solver):
    model = nn.Sequential(linear(64, 64), linear(64, 64))
    row = tnn.sparsify(model, solver=solver).report()[0]
    assert row.backend == "masked"
    assert row.reason.startswith("its mask leaves rows or columns short")


@pytest.mark.usefixtures("unpacked", "paying")
@pytest.mark.parametrize("backend", ["auto", "semi_structured"])
def test_masks_that_cannot_be_packed_change_nothing_or_fall_back_all_at_once(backend):
    model = nn.Sequential(linear(64, 64), linear(64, 64))
    masks = {f"{i}.0.weight": tmask.solve(model[i][0].weight, "2:4").mask for i in range(2)}
    sparsifier = tnn.sparsify(model, solver="greedy-keep", masks=masks, schedule=tnn.Periodic(every=1), backend=backend)
    assert all(attaching.attached(model[i][0]) for i in range(2))
    if backend == "auto":
        sparsifier.step()
        assert [layer.step for layer in sparsifier.layers] == [1, 1]
    else:
        with pytest.raises(tmask.InvalidMaskError, match=r"layer '0.0.weight': its mask leaves rows or columns short"):
            sparsifier.step()
        assert [layer.step for layer in sparsifier.layers] == [0, 0]
        assert all(torch.equal(layer.masked.mask, masks[layer.name]) for layer in sparsifier.layers)
    assert all(attaching.attached(model[i][0]) == (backend != "auto") for i in range(2))


@pytest.mark.usefixtures("unpacked")
def test_a_layer_that_attention_does_not_call_is_not_packed():
    attention = nn.MultiheadAttention(32, 2, dtype=torch.bfloat16)
    found = {row.layer: row for row in tnn.sparsify(attention).report()}
    assert found["out_proj.weight"].backend == "masked"
    assert found["out_proj.weight"].reason == "MultiheadAttention reads the weight of its out_proj without calling it"


def test_auto_says_why_it_took_the_masked_product():
    row = tnn.sparsify(linear()).report()[0]
    assert (row.backend, row.reason) == ("masked", "no sparse kernel runs on a cpu device")


@pytest.mark.usefixtures("unpacked")
@pytest.mark.parametrize("pays", [True, False])
def test_auto_goes_by_the_measurement(pays, monkeypatch):
    monkeypatch.setattr(payoff, "pays", lambda *args: (pays, "3 ms against 4 ms"))
    model = linear()
    row = tnn.sparsify(model).report()[0]
    assert (row.backend, row.reason) == ("semi_structured" if pays else "masked", "3 ms against 4 ms")
    assert attaching.attached(model[0]) == pays


@pytest.mark.usefixtures("paying")
def test_auto_is_chosen_anew_where_the_model_is_when_training_begins(monkeypatch):
    model = linear()
    sparsifier = tnn.sparsify(model)
    assert sparsifier.report()[0].backend == "masked"
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with monkeypatch.context() as moved:  # as if the model had moved to a device with kernels, and back
        moved.setitem(routes.ROUTES, "unpacked", Unpacked())
        sparsifier.watch(optimizer)
        assert (sparsifier.report()[0].backend, sparsifier.report()[0].reason) == ("semi_structured", "measured")
        assert attaching.attached(model[0])
        sparsifier.unwatch()
    sparsifier.watch(optimizer)
    assert sparsifier.report()[0].backend == "masked"
    assert not attaching.attached(model[0])


@pytest.mark.usefixtures("unpacked")
def test_float32_is_judged_by_what_autocast_makes_of_it():
    model = linear().float()
    assert tnn.sparsify(model, backend="semi_structured").report()[0].backend == "semi_structured"


def test_weights_are_packed_once_per_optimizer_step(unpacked):  # noqa: F811
    model, twin = linear(), linear()
    optimizers = [torch.optim.SGD(one.parameters(), 0.1) for one in (model, twin)]
    schedule = tnn.Periodic(every=2)
    sparsifier = tnn.sparsify(model, schedule=schedule, optimizer=optimizers[0], backend="semi_structured")
    tnn.sparsify(twin, schedule=schedule, optimizer=optimizers[1], backend="masked")
    for _ in range(5):
        packs, products = unpacked.packs, unpacked.products
        for one, optimizer in zip((model, twin), optimizers, strict=True):
            optimizer.zero_grad()
            for _ in range(3):
                one(torch.ones(8, 64, dtype=torch.bfloat16, requires_grad=True)).float().square().mean().backward()
            optimizer.step()
        assert unpacked.packs == packs + 1
        assert unpacked.products == products + 6
        assert torch.equal(model[0].weight, twin[0].weight)
    assert sparsifier.steps == 5


@pytest.mark.usefixtures("unpacked")
def test_packed_weights_wait_for_the_final_pattern_and_end_with_it():
    model = linear()
    schedule = tnn.Periodic(every=2, begin=2, ramp=4, dense_from=10)
    sparsifier = tnn.sparsify(model, "2:4", schedule=schedule, backend="semi_structured")
    attached = []
    for _ in range(12):
        attached.append(attaching.attached(model[0]))
        sparsifier.step()
    assert attached == [False] * 6 + [True] * 4 + [False] * 2


@pytest.mark.usefixtures("unpacked")
@pytest.mark.parametrize("end", ["remove", "export"])
def test_the_layer_gets_its_own_forward_back(end):
    model = linear()
    sparsifier = tnn.sparsify(model, backend="semi_structured")
    assert attaching.attached(model[0])
    if end == "remove":
        sparsifier.remove()
    else:
        tnn.export(model)
    assert not attaching.attached(model[0])
    assert "forward" not in vars(model[0])


@pytest.mark.usefixtures("unpacked")
def test_a_mask_that_cannot_be_packed_names_its_layer():
    layer = tnn.sparsify(linear(), backend="semi_structured").layers[0]
    with pytest.raises(tmask.InvalidMaskError, match=r"layer '0\.weight'"):
        layer.set_mask(
            FoundMask(torch.zeros(32, 64, dtype=torch.bool), layer.worth, 0.0, complete=False), layer.pattern, 1
        )


def test_a_loaded_checkpoint_is_packed_at_once(unpacked):  # noqa: F811
    model, fresh = linear(), linear()
    with torch.no_grad():
        model[0].weight.mul_(3).add_(1)
    saved = tnn.sparsify(model, backend="semi_structured")
    resumed = tnn.sparsify(fresh, backend="semi_structured")
    fresh.load_state_dict(model.state_dict())
    packs = unpacked.packs
    resumed.load_state_dict(saved.state_dict())
    assert unpacked.packs == packs + 1
    x = torch.ones(8, 64, dtype=torch.bfloat16)
    assert torch.equal(fresh(x), model(x))


@pytest.mark.parametrize("gradient", ["masked", "straight-through"])
@pytest.mark.usefixtures("unpacked", "paying")
def test_layers_whose_zeros_are_kept_out_run_packed(gradient):
    """Filled up with zeros, the products are those of the masked weight; and no zero learns."""
    model, dense = linear(64, 64), linear(64, 64)
    full = tmask.solve(model[0].weight, "2:4").mask
    mask = full & (torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) < 0.3)
    with torch.no_grad():
        # Elsewhere weights that are not 0 stand where the mask is filled up.
        model[0].weight[:32] *= mask[:32]
        dense[0].weight.copy_(model[0].weight)
    zero = model[0].weight == 0
    for each, backend in ((model, "auto"), (dense, "masked")):
        schedule = tnn.Frozen(gradient=gradient)
        row = tnn.sparsify(each, backend=backend, schedule=schedule, masks={"0": mask}, keep_zeros=True).report()[0]
        assert row.backend == ("semi_structured" if each is model else "masked")
    assert attaching.attached(model[0])
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(1)).to(model[0].bias.dtype)
    results = []
    for each in (model, dense):
        result = each(x)
        result.square().sum().backward()
        original = each[0].parametrizations.weight.original
        assert not original.grad[zero].any()
        assert original.grad.any()
        results += [result, original.grad]
    torch.testing.assert_close(results[0], results[2])
    torch.testing.assert_close(results[1], results[3])

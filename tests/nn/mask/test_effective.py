"""What others do to the weight of a masked layer reaches the dense weight, or is an error."""

import copy
import io

import pytest
import torch
from torch import nn

from tests.nn.models import batch, mlp
from tmask import nn as tnn
from tmask.errors import InvalidProblemError

RULES = {"straight-through": tnn.Periodic(), "masked": tnn.Frozen()}


@pytest.fixture(params=RULES)
def masked(request):
    """A layer, its dense weight, its mask."""
    layer = nn.Linear(8, 8)
    (found,) = tnn.sparsify(layer, schedule=RULES[request.param]).layers
    return layer, found.weight, found.masked.mask


def assign_data(layer):
    layer.weight.data = torch.ones(8, 8)


def add_to_data(layer):
    layer.weight.data += 1


def rebuild_data(layer):
    layer.weight.data = layer.weight.data.clone() + 1


def an_index(layer):
    with torch.no_grad():
        layer.weight[2, 3:6] = 7.0


def a_view(layer):
    layer.weight.detach().view(4, 16).T[2].mul_(3)


def pieces(layer):
    with torch.no_grad():
        for k, part in enumerate(layer.weight.chunk(2)):
            part.add_(k + 1)


def within_inference(layer):
    with torch.no_grad():
        layer.weight.copy_(torch.full((8, 8), 2.0))


WRITERS = {
    "data =": assign_data,
    "data +=": add_to_data,
    "data = data.clone() + 1": rebuild_data,
    "index": an_index,
    "view": a_view,
    "chunk": pieces,
    "copy_": within_inference,
    "zeros_": lambda layer: nn.init.zeros_(layer.weight),
    "kaiming_": lambda layer: nn.init.kaiming_uniform_(layer.weight),
    "orthogonal_": lambda layer: nn.init.orthogonal_(layer.weight),  # writes through a view
    "sparse_": lambda layer: nn.init.sparse_(layer.weight, 0.5),  # writes through indices
    "dirac": lambda layer: layer.weight.data.fill_diagonal_(1.0),
    "detach": lambda layer: layer.weight.detach().normal_(),
}


@pytest.mark.parametrize("name", WRITERS)
def test_writes_reach_the_dense_weight_as_they_reach_a_parameter(masked, name):
    layer, master, mask = masked
    plain = nn.Linear(8, 8)
    plain.load_state_dict({"weight": master.detach(), "bias": layer.bias.detach()})
    if name == "data = data.clone() + 1":  # reads what the layer gives, which is masked
        with torch.no_grad():
            plain.weight.copy_(layer.weight)
    for one in (layer, plain):
        torch.manual_seed(5)
        WRITERS[name](one)
    own = plain.weight.detach()
    assert torch.equal(master, own)
    assert torch.equal(layer.weight, torch.where(mask, own, 0))


def test_whoever_has_written_reads_it_back(masked):
    layer, master, mask = masked
    with torch.no_grad():
        weight = layer.weight
        held = weight.data
        held += 1
        assert torch.equal(held, torch.where(mask, master, 0))
        assert torch.equal(weight, held)
        weight *= 2
        assert torch.equal(held, torch.where(mask, master, 0))


def test_what_no_method_sees_is_an_error_at_the_next_access(masked):
    layer, master, _ = masked
    before = master.detach().clone()
    with torch.no_grad():
        torch.add(layer.weight, 1, out=layer.weight)
    with pytest.raises(InvalidProblemError, match=r"changed the weight \(8, 8\) of a masked layer in place, past"):
        layer(batch((2, 8)))
    assert torch.equal(master, before)
    layer(batch((2, 8)))
    with torch.no_grad():
        torch._foreach_mul_([layer.weight.data], 2)
    with pytest.raises(InvalidProblemError, match="is lost"):
        _ = layer.weight


def test_what_a_mask_cannot_follow_is_an_error(masked):
    layer, _, _ = masked
    for write in (
        lambda: layer.weight.set_(torch.ones(4, 4)),
        lambda: layer.weight.data.resize_(4, 4),
        lambda: setattr(layer.weight, "data", torch.ones(1, 8)),
        lambda: setattr(layer.weight, "data", torch.ones(8, 8, dtype=torch.float16)),
        lambda: setattr(layer, "weight", nn.Parameter(torch.ones(8, 8))),
        lambda: torch.nn.utils.fusion.fuse_linear_bn_eval(layer.eval(), nn.BatchNorm1d(8).eval()),
    ):
        with pytest.raises(InvalidProblemError, match=r"masked layer|has a mask"):
            write()
    with pytest.raises(ValueError, match="read-only"):
        layer.weight.detach().numpy()[0] = 1


def test_freezing_reaches_the_dense_weight(masked):
    layer, master, _ = masked
    layer.weight.requires_grad = False
    assert not master.requires_grad
    layer.weight.requires_grad_(True)
    assert master.requires_grad
    layer.weight.detach().requires_grad_(True)
    layer.weight.detach().requires_grad_(False)
    assert master.requires_grad


def test_what_is_made_of_it_is_plain(masked):
    layer, master, _ = masked
    file = io.BytesIO()
    torch.save(layer.weight.detach(), file)
    file.seek(0)
    assert type(torch.load(file, weights_only=True)) is torch.Tensor
    assert type(copy.deepcopy(layer.weight.detach())) is torch.Tensor
    assert type(layer.weight + 1) is type(layer.weight.clone()) is torch.Tensor
    assert repr(layer.weight).startswith("tensor(")
    parameter = nn.Parameter(layer.weight)
    assert type(parameter) is nn.Parameter
    assert parameter.is_leaf
    with torch.no_grad():
        parameter.zero_()
    assert master.abs().min() > 0


def test_a_dense_state_loads_into_the_dense_weights():
    model, dense = mlp(), mlp(seed=3).state_dict()
    sparsifier = tnn.sparsify(model)
    twin = copy.deepcopy(model)
    for one in (model, twin):
        result = one.load_state_dict(dense, strict=False)
        assert not result.unexpected_keys
        assert not [key for key in result.missing_keys if "original" in key]
        for name in ("0", "2"):
            module = one.get_submodule(name)
            assert torch.equal(module.parametrizations.weight.original, dense[f"{name}.weight"])
    with pytest.raises(RuntimeError, match=r"Missing key.*mask"):  # which torch still tells
        model.load_state_dict(dense)
    sparsifier.remove()
    model.load_state_dict(dense)
    tnn.export(twin).load_state_dict(dense)


class Merging(nn.Linear):
    """As loralib's: merged whenever it goes to evaluation, and taken out again for training."""

    def __init__(self):
        super().__init__(8, 8)
        self.lora_A, self.lora_B = (nn.Parameter(batch((8, 8), k)) for k in (1, 2))

    def train(self, mode=True):
        if mode != self.training:
            self.weight.data += (-1 if mode else 1) * self.lora_B @ self.lora_A
        return super().train(mode)


def test_an_adapter_that_merges_itself_is_merged():
    layer = Merging()
    sparsifier = tnn.sparsify(layer)
    (found,) = sparsifier.layers
    skipped = {row.layer: row.reason for row in sparsifier.report() if row.skipped}
    assert skipped.keys() == {"lora_A", "lora_B"}
    assert all("adapter" in reason for reason in skipped.values())
    before = found.weight.detach().clone()
    layer.eval()
    merged = torch.where(found.masked.mask, before + layer.lora_B @ layer.lora_A, 0)
    assert torch.equal(layer(torch.eye(8)), nn.functional.linear(torch.eye(8), merged, layer.bias))
    layer.train()
    torch.testing.assert_close(found.weight, before)


def test_averaged_models_hold_masters_and_masks():
    model = mlp()
    (first, _) = tnn.sparsify(model).layers
    average = torch.optim.swa_utils.AveragedModel(model)
    with torch.no_grad():
        first.weight.add_(2)
    average.update_parameters(model)
    average.update_parameters(model)
    own = average.module[0]
    assert torch.equal(own.weight, torch.where(first.masked.mask, own.parametrizations.weight.original, 0))
    tnn.export(average)


def test_conversion_goes_to_the_dense_weight():
    model = mlp()
    (first, second) = tnn.sparsify(model).layers
    model.half().to(torch.bfloat16)
    for layer in (first, second):
        assert layer.weight.dtype == torch.bfloat16
        assert torch.equal(layer.owners[0].module.weight, torch.where(layer.masked.mask, layer.weight, 0))


def test_spectral_norm_beside_a_mask_normalises_the_masked_weight():
    layer = nn.Linear(8, 8)
    tnn.sparsify(layer)
    expected = layer.weight.detach().clone()
    torch.nn.utils.parametrizations.spectral_norm(layer, n_power_iterations=50)
    torch.testing.assert_close(layer.weight, expected / torch.linalg.matrix_norm(expected, 2))


def test_torch_compile_reads_it():
    layer = nn.Linear(8, 8)
    tnn.sparsify(layer)
    x = batch((2, 8))
    assert torch.equal(torch.compile(layer, backend="eager", fullgraph=True)(x), layer(x))

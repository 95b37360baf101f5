"""What the processes of the distributed tests do; every assertion runs on every rank."""

from __future__ import annotations

import time

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import tmask
from tests.nn.models import batch
from tmask import nn as tnn
from tmask.errors import InvalidProblemError, RanksDifferError
from tmask.nn.distributed import attendance
from tmask.nn.mask.parametrization import Masked

# Ranks add gradients of parts of the batch, so results differ from one process's by rounding: some 1e-16 a step, which
# AdamW can make larger where a gradient is near 0.
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
STEPS = 6
NAMES = ["0.weight", "2.weight", "4.weight"]


def net(seed=0):
    """(18, 8), (12, 18) and (4, 12): three ranks get 6 rows of the first, in the middle of a block, and 2, 2, 0 of the
    last."""
    torch.manual_seed(seed)
    layers = nn.Linear(8, 18), nn.Tanh(), nn.Linear(18, 12), nn.Tanh(), nn.Linear(12, 4)
    return nn.Sequential(*layers).double()


def train(model, optimizer, ranks=(0, 1), steps=STEPS, first=0):
    """Losses of steps, each over the whole batch, of which rank i of n takes a part."""
    rank, world = ranks
    losses = []
    for step in range(first, first + steps):
        x = batch((12, 8), step, torch.float64).chunk(world)[rank]
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        if world > 1:
            dist.all_reduce(loss.detach())
        losses.append(loss.item() / world)
    return losses


def adamw(model):
    return torch.optim.AdamW(model.parameters(), 0.05)


def alone(**options):
    """The same training in this process alone: losses and Sparsifier."""
    model = net()
    optimizer = adamw(model)
    sparsifier = tnn.sparsify(model, optimizer=optimizer, distributed=False, **options)
    return train(model, optimizer), sparsifier, model


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def compare(sparsifier, reference):
    """Masks equal bit for bit; figures, report and state equal but for rounding and time."""
    for layer, other in zip(sparsifier.layers, reference.layers, strict=True):
        assert torch.equal(whole(layer.masked.mask), other.masked.mask)
        torch.testing.assert_close(whole(layer.weight.detach()), other.weight.detach(), **CLOSE)
    figures, expected = ({k: v for k, v in s.metrics().items() if "seconds" not in k} for s in (sparsifier, reference))
    assert figures == pytest.approx(expected, abs=1e-12)
    for row, other in zip(sparsifier.report(), reference.report(), strict=True):
        assert (row.shape, row.pattern, row.step, row.gap) == (other.shape, other.pattern, other.step, other.gap)
        assert row.retained == pytest.approx(other.retained)
    state, expected = sparsifier.state_dict(), reference.state_dict()
    del state["order"], expected["order"]  # optimizers are made on either side of sparsify
    for name in expected["layers"]:
        score = expected["layers"][name].pop("score")
        assert state["layers"][name].pop("score") == pytest.approx(score)
    assert state == expected


def with_ddp(rank, world, folder):
    """DDP: as one process, each mask found once; whatever ranks disagree on is an error on all of them."""
    options = {"schedule": tnn.Periodic(every=2), "decay": tnn.MaskedDecay(0.01), "hysteresis": 0.3, "smoothing": 0.5}
    losses, reference, _ = alone(**options)
    found = []

    def score(name, weight):
        found.append(name)
        return weight.abs()

    for wrapped_first in (False, True):
        model = net()
        if wrapped_first:
            parallel = DistributedDataParallel(model)
            sparsifier = tnn.sparsify(model, score=score, **options)
        else:
            sparsifier = tnn.sparsify(model, score=score, **options)
            parallel = DistributedDataParallel(model)
        optimizer = adamw(parallel)
        sparsifier.watch(optimizer)
        torch.testing.assert_close(train(parallel, optimizer, (rank, world)), losses, **CLOSE)
        compare(sparsifier, reference)
    counts = [None] * world
    dist.all_gather_object(counts, found)
    assert sorted(sum(counts, [])) == sorted(NAMES * 2 * 4)  # noqa: RUF017
    assert all(counts)  # the work is shared

    if rank == 1:
        sparsifier.layers[1].masked.mask.logical_not_()
    with pytest.raises(RanksDifferError, match=r"layer '2.weight': the mask in force differs on rank 1 from rank 0"):
        train(parallel, optimizer, (rank, world), 2, STEPS)

    with pytest.raises(RanksDifferError, match=r"layer '0.weight': the weight differs on rank 1 from rank 0; seed all"):
        tnn.sparsify(net(seed=rank))
    with pytest.raises(RanksDifferError, match=r"layers or patterns at a renewal differ on rank 1 .*distributed=False"):
        tnn.sparsify(net(), exclude=["4"] if rank == 1 else [])
    masks = {"0.weight": tmask.solve(net(seed=rank)[0].weight, "2:4").mask}
    with pytest.raises(RanksDifferError, match=r"layer '0.weight': the new mask differs on rank 1"):
        tnn.sparsify(net(), masks=masks)
    same = tmask.solve(net(seed=5)[0].weight, "2:4").mask
    given = tnn.sparsify(net(), masks={"0.weight": same})
    assert torch.equal(given.layers[0].masked.mask, same)

    other = net(seed=5)
    tnn.sparsify(other, distributed=False)
    model = net()
    frozen = tnn.sparsify(model)
    if rank == 1:
        model.load_state_dict(
            {name: held for name, held in other.state_dict().items() if ".mask" in name}, strict=False
        )
    with pytest.raises(RanksDifferError, match=r"layer '0.weight': the loaded mask differs on rank 1 from rank 0"):
        frozen.load_state_dict(frozen.state_dict())
    state = frozen.state_dict()
    if rank == 1:
        state["layers"]["2.weight"]["mask"] += 1
    with pytest.raises(tmask.InvalidProblemError, match=r"rank 1: layer '2.weight': its mask is not the one"):
        frozen.load_state_dict(state)
    model = net()
    with pytest.raises(tmask.InvalidProblemError, match="rank 0: the optimizer does not hold"):
        tnn.sparsify(model, optimizer=adamw(net() if rank == 0 else model))

    def local(name, weight):  # fails on the one rank that is asked about this layer
        if name == "2.weight":
            raise ValueError("no activations")
        return weight.abs()

    with pytest.raises(tmask.SolverFailedError, match="rank 0: ValueError: no activations"):
        tnn.sparsify(net(), score=local)
    model = net()
    with torch.no_grad():
        model[2].weight[1, 2] = torch.nan
    with pytest.raises(tmask.InvalidProblemError, match=r"rank 0: step 0, layer '2.weight': .*NaN"):
        tnn.sparsify(model)
    assert [type(step) for step in model.modules()] == [type(step) for step in net().modules()]


def with_fsdp(rank, world, folder):
    """FSDP2: as one process, masks in shards like the weights; saved, resumed, exported; misuse is refused."""
    mesh = dist.init_device_mesh("cpu", (world,))

    def sharded(optimizer=adamw, **options):
        model = net()
        sparsifier = tnn.sparsify(model, **options)
        for layer in (model[0], model[2], model[4], model):
            fully_shard(layer, mesh=mesh)
        made = optimizer(model)
        sparsifier.watch(made)
        return model, made, sparsifier

    for options in (
        {"schedule": tnn.Periodic(every=2), "decay": tnn.MaskedDecay(0.01)},
        {"schedule": tnn.Periodic(every=3, gradient="masked"), "decay": tnn.MaskedDecay(0.01, "weight")},
        {"schedule": tnn.Periodic(every=2, begin=1, ramp=2, dense_from=5)},
        {"schedule": tnn.Periodic(every=1, dense_from=5, baked_tail=True), "hysteresis": 0.3},
    ):
        losses, reference, plain = alone(**options)
        model, optimizer, sparsifier = sharded(**options)
        torch.testing.assert_close(train(model, optimizer, (rank, world)), losses, **CLOSE)
        compare(sparsifier, reference)
        for layer in sparsifier.layers:
            assert layer.masked.mask.placements == layer.weight.placements
            assert layer.masked.mask.to_local().shape == layer.weight.to_local().shape
    assert [len(layer.weight.to_local()) for layer in sparsifier.layers] == [6, 4, 2 if rank < 2 else 0]
    x = batch((4, 8), 7, torch.float64)
    torch.testing.assert_close(model(x), plain(x), **CLOSE)

    with pytest.raises(InvalidProblemError, match="smoothing needs whole weights, and fully_shard has cut these"):
        sharded(smoothing=0.5)

    options = {"schedule": tnn.Periodic(every=2)}
    model, optimizer, sparsifier = sharded(**options)
    train(model, optimizer, (rank, world), 3)
    model_state, optimizer_state = get_state_dict(model, optimizer)
    checkpoint.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder / "saved")
    state = sparsifier.state_dict()
    losses = train(model, optimizer, (rank, world), 3, 3)
    again, other, resumed = sharded(**options)
    model_state, optimizer_state = get_state_dict(again, other)
    checkpoint.load({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder / "saved")
    checkpoint.state_dict.set_state_dict(again, other, model_state_dict=model_state, optim_state_dict=optimizer_state)
    resumed.load_state_dict(state)
    assert train(again, other, (rank, world), 3, 3) == losses
    for layer, twin in zip(sparsifier.layers, resumed.layers, strict=True):
        assert torch.equal(whole(layer.masked.mask), whole(twin.masked.mask))

    _, _, fresh = sharded(**options)
    with pytest.raises(tmask.InvalidProblemError, match=r"layer '0.weight': its mask is not the one .* of step 3"):
        fresh.load_state_dict(state)
    for layer in again.modules():
        if isinstance(layer, Masked):
            layer.mask.logical_not_()
            layer.terms[-1] = 0
            break
    with pytest.raises(tmask.InvalidProblemError, match="its mask is not the one"):
        resumed.load_state_dict(state)
    assert resumed.state_dict()["layers"]["0.weight"]["mask"] is None  # nobody knows; asking would take all ranks
    layer.mask.fill_(True)
    with pytest.raises(tmask.InvalidMaskError, match=r"layer '0.weight': the mask is not the 2:4 one that was found"):
        resumed.load_state_dict(state)
    with torch.no_grad():
        resumed.layers[1].weight.to_local()[0, 3] = torch.nan if rank == 1 else 0
    with pytest.raises(tmask.InvalidProblemError, match=r"rank 1: step 7, layer '2.weight': .*index \(0, 3\)"):
        resumed._step()

    _, _, plain = alone(**options)
    expected = tnn.export_state_dict(plain)
    exported = tnn.export_state_dict(model)
    gathered = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    for name, tensor in exported.items():
        torch.testing.assert_close(whole(tensor), expected[name], **CLOSE)
        torch.testing.assert_close(tnn.bake(gathered)[name], expected[name], **CLOSE)
    assert exported.keys() == expected.keys()

    with pytest.raises(tmask.InvalidProblemError, match="sharded by fully_shard"):
        tnn.export(model)
    with pytest.raises(tmask.InvalidProblemError, match="sharded by fully_shard"):
        sparsifier.remove()
    with pytest.raises(tmask.InvalidProblemError, match=r"'weight' is sharded already: call sparsify on the whole"):
        tnn.sparsify(fully_shard(nn.Linear(8, 8), mesh=mesh))
    model = net()
    optimizer = adamw(model)
    tnn.sparsify(model, optimizer=optimizer)
    fully_shard(model, mesh=mesh)
    with pytest.raises(tmask.InvalidProblemError, match="make the optimizer after it"):
        train(model, optimizer, (rank, world), 1)
    model = net()
    sparsifier = tnn.sparsify(model)
    fully_shard(model, mesh=mesh)
    sparsifier.layers[1].backend = "semi_structured"
    with pytest.raises(tmask.InvalidProblemError, match=r"layer '2.weight': .*backend=\"masked\""):
        sparsifier.watch(adamw(model))

    model, optimizer, _ = sharded(schedule=tnn.Periodic(every=1), distributed=False)
    with pytest.raises(tmask.InvalidProblemError, match="leave out distributed=False"):
        train(model, optimizer, (rank, world), 1)

    outer = dist.new_group([0, 2])
    sparsifier = tnn.sparsify(net(seed=rank % 2), distributed=False if rank == 1 else outer)
    for layer in sparsifier.layers:
        assert torch.equal(layer.masked.mask, tmask.solve(layer.weight, "2:4").mask)


def writes_to_shards(rank, world, folder):
    """What is written into a weight that `fully_shard` has cut goes to the dense one, on every rank."""
    mesh = dist.init_device_mesh("cpu", (world,))

    def sharded():
        model = net()
        sparsifier = tnn.sparsify(model)
        for layer in (model[0], model[2], model[4], model):
            fully_shard(layer, mesh=mesh)
        sparsifier.watch(adamw(model))
        return model, sparsifier.layers[0]

    def cut(tensor, like):
        return distribute_tensor(tensor, mesh, like.placements)

    delta = batch((18, 8), 3, torch.float64)

    def add_to_data(layer, extra):
        layer.weight.data += extra  # as adapters are merged

    def assign(layer, extra):
        layer.weight = layer.weight.detach() + extra

    writes = {
        "data": (add_to_data, lambda w, d: w + d),
        "add_": (lambda la, extra: la.weight.add_(extra), lambda w, d: w + d),
        "detach": (lambda la, extra: la.weight.detach().sub_(extra), lambda w, d: w - d),
        "view": (lambda la, extra: la.weight.t().mul_(2), lambda w, d: 2 * w),
        "to_local": (lambda la, extra: la.weight.to_local().mul_(3), lambda w, d: 3 * w),
        "data.to_local": (lambda la, extra: la.weight.data.to_local().mul_(3), lambda w, d: 3 * w),
        "init": (lambda la, extra: nn.init.ones_(la.weight), lambda w, d: torch.ones_like(w)),
        "copy_": (lambda la, extra: la.weight.copy_(extra), lambda w, d: d),
    }
    for name, (write, expected) in writes.items():
        model, layer = sharded()
        before, mask = whole(layer.weight.detach()).clone(), whole(layer.masked.mask)
        with torch.no_grad():
            write(model[0], cut(delta, layer.weight))
        after = whole(layer.weight.detach())
        torch.testing.assert_close(after, expected(before, delta), msg=name)
        torch.testing.assert_close(whole(model[0].weight.detach()), torch.where(mask, after, 0), msg=name)
    model, layer = sharded()
    before = whole(layer.weight.detach()).clone()
    assign(model[0], cut(delta, layer.weight))
    kept = torch.where(whole(layer.masked.mask), before, 0) + delta  # as for a whole weight, what is read is masked
    torch.testing.assert_close(whole(layer.weight.detach()), kept)
    with torch.no_grad():
        torch.add(model[0].weight, 1.0, out=model[0].weight)
    with pytest.raises(tmask.InvalidProblemError, match="past the methods of tensors"):
        _ = model[0].weight
    with pytest.raises(tmask.InvalidProblemError, match="its shape and memory are the mask's too"):
        model[0].weight.t_()
    assert train(model, adamw(model), (rank, world), 2)


def train_apart(layer, rank):
    """Rank 1 alone, the others together."""
    sparsifier = tnn.sparsify(layer, schedule=tnn.Periodic(every=1), distributed=False if rank == 1 else None)
    time.sleep(5)  # in which those that wait give up
    sparsifier.step()


def some_alone(rank, world, folder):
    """Ranks of which one is told to train alone: an error on all."""
    attendance.PATIENCE = 2.0
    tnn.sparsify(net(), distributed=False)  # whoever has trained alone comes to the others all the same
    time.sleep(rank)
    tnn.sparsify(net())
    tnn.sparsify(net(), distributed=True if rank else None)
    if rank == 1:  # once more often than the others
        tnn.sparsify(net(), distributed=False)
    tnn.sparsify(net())
    torch.manual_seed(0)
    layer = nn.Linear(8, 8)
    with pytest.raises(RanksDifferError, match=r"^rank 1 trained the model alone .* the ranks 0, 1 waited") as caught:
        train_apart(layer, rank)
    assert hasattr(layer, "parametrizations") == (rank == 1)  # the others' models are as they were
    (folder / f"{rank}.txt").write_text(str(caught.value))

"""What the processes do of which one fails, or is given something else: all must raise the same, at once."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.nn.models import batch
from tmask import nn as tnn
from tmask.errors import RanksDifferError, SolverFailedError, TmaskError

SOON = 1.0  # seconds, of which some hundredths are needed; the group waits for two minutes


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8))


def fails_alike(work, kind, match):
    """All ranks raise the same error, and soon."""
    dist.barrier()
    begin = time.perf_counter()
    with pytest.raises(kind, match=match) as caught:
        work()
    assert time.perf_counter() - begin < SOON
    texts = [None, None]
    dist.all_gather_object(texts, f"{type(caught.value).__name__}: {caught.value}")
    assert texts[0] == texts[1]


def step(model, optimizer, at=0):
    optimizer.zero_grad()
    model(batch((4, 8), at)).square().mean().backward()
    optimizer.step()


def training(**options):
    """A model under DDP, its optimizer and its Sparsifier."""
    model = net()
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), 0.1)
    return parallel, optimizer, tnn.sparsify(model, optimizer=optimizer, **options)


def arguments(rank, world, folder):
    """Of sparsify."""
    tnn.sparsify(net())  # a first mask takes seconds, in which its solver is loaded
    other = rank == 1
    for option, own, others in (
        ("schedule", tnn.Periodic(every=2), tnn.Periodic(every=3)),
        ("schedule", tnn.Periodic(every=2), tnn.Periodic(every=2, begin=5)),
        ("schedule", tnn.Frozen(), tnn.Periodic()),
        ("decay", tnn.MaskedDecay(0.1), None),
        ("check_finite_every", 1, 2),
    ):
        value = others if other else own
        fails_alike(lambda o=option, v=value: tnn.sparsify(net(), **{o: v}), RanksDifferError, f"{option} of sparsify")
    fails_alike(lambda: tnn.sparsify(net(), "4:8" if other else "2:4"), RanksDifferError, "patterns at a renewal")
    fails_alike(lambda: tnn.sparsify(net(), masks={"x": 1} if other else None), TmaskError, "rank 1: masks for x")
    wider = nn.Sequential(nn.Linear(8, 20), nn.Tanh(), nn.Linear(20, 8)) if other else net()
    fails_alike(lambda: tnn.sparsify(wider), RanksDifferError, "layers or patterns at a renewal differ")
    fails_alike(lambda: tnn.sparsify(7 if other else net()), TmaskError, "rank 1: model must be")
    late = tnn.Periodic(begin=3)  # whose first masks come in training, where layers are compared
    fails_alike(
        lambda: tnn.sparsify(net(), "1:4" if other else "2:4", schedule=late),
        RanksDifferError,
        "layers and patterns of sparsify differ",
    )


def failures(rank, world, folder):
    """In training and in checkpoints."""
    other = rank == 1
    for options in ({}, {"schedule": tnn.Periodic(every=3)}, {"schedule": tnn.Periodic(every=1)}):
        parallel, optimizer, sparsifier = training(**options)
        step(parallel, optimizer)
        parallel(batch((4, 8))).square().mean().backward()
        if other:  # behind DDP's exchange of gradients, which would bring it to all
            with torch.no_grad():
                sparsifier.layers[1].weight[2, 3] = torch.nan
        fails_alike(optimizer.step, TmaskError, "rank 1: step 2, layer '2.weight'.*NaN")

    # Ahead of a step, within a renewal's callback and its score, in a custom schedule.
    parallel, optimizer, _ = training()
    if other:
        tnn.export(parallel.module)
    fails_alike(lambda: step(parallel, optimizer), TmaskError, "rank 1: layer '0.weight' has this mask no more")

    def log(renewal):
        if other and renewal.step:
            raise OSError("disk is full")

    parallel, optimizer, _ = training(schedule=tnn.Periodic(every=1), on_renewal=log)
    fails_alike(lambda: step(parallel, optimizer), SolverFailedError, "rank 1: OSError: disk is full")

    class Strange(tnn.Periodic):
        def pattern_at(self, step, target):
            if other and step:
                raise ZeroDivisionError("no step")
            return target

    parallel, optimizer, _ = training(schedule=Strange(every=1))
    fails_alike(lambda: step(parallel, optimizer), SolverFailedError, "rank 1: ZeroDivisionError: no step")

    parallel, optimizer, sparsifier = training()
    state = sparsifier.state_dict()
    fails_alike(lambda: sparsifier.load_state_dict(None if other else state), TmaskError, "rank 1: the state of a Spar")
    spoilt = sparsifier.state_dict()
    if other:
        spoilt["layers"]["0.weight"]["score"] = 7
    fails_alike(lambda: sparsifier.load_state_dict(spoilt), SolverFailedError, "rank 1: TypeError")
    fails_alike(lambda: sparsifier.watch(optimizer if other else None), TmaskError, "rank 0: an optimizer is watched")
    step(parallel, optimizer)  # and the group is in order still
    if other:
        tnn.export(parallel.module)
    fails_alike(lambda: sparsifier.load_state_dict(state), TmaskError, "rank 1: layer '0.weight' has this mask no more")


def saves(rank, world, folder):
    """By the callback of transformers: a full disk on the rank that writes, a spoilt mask on another."""
    from tmask.nn.integrations.hugging_face import SparsifierCallback

    class Model(nn.Sequential):
        def save_pretrained(self, path, state_dict, is_main_process):
            if is_main_process and self.full:
                raise OSError("disk is full")

    torch.manual_seed(0)
    model = Model(nn.Linear(8, 8))
    model.full = True
    sparsifier = tnn.sparsify(model)
    callback = SparsifierCallback(sparsifier)
    arguments, state = SimpleNamespace(output_dir=folder, should_save=rank == 0), SimpleNamespace(global_step=1)

    def save():
        callback.on_save(arguments, state, None, model=model)

    fails_alike(save, SolverFailedError, "rank 0: OSError: disk is full")
    model.full = False
    save()
    if rank == 1:
        sparsifier.layers[0].masked.mask[0, :4] = True
    fails_alike(save, TmaskError, "rank 1: layer '0.weight': the mask is not")
    fails_alike(
        lambda: callback.on_train_end(arguments, state, None, model=model), TmaskError, "rank 1: layer '0.weight'"
    )

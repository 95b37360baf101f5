"""One run: train a network under a setting and a seed, and note a point of its curves at every renewal."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from bench.training.data import Data, Images, Text
from bench.training.masks import OPTIMUM, plain_worth, put_masks
from bench.training.models import DENSE_LAYERS, Gpt, ResNet
from bench.training.settings import Setting, Size, VisionSize
from tmask.judging.worth import Worth
from tmask.nn import FlipRate, MaskedDecay, Renewal, Sparsifier, find_decay

TESTS = 2  # in a run, the last one at its end
_WARM_UP = 0.05  # share of the steps over which the learning rate rises


@dataclass(slots=True)
class Point:
    """The curves at one step; None where there is nothing to say.

    Args:
        step: optimizer steps behind it.
        train_loss: mean over the batches since the point before.
        test_loss, test_accuracy: on everything held out.
        flip_rate: share of mask bits that the renewal at this step changed; in dense training, of the 2:4 masks that
            its weights would have.
        retained: share of |weight| that its masks keep; gap: to the best transposable masks.
        step_seconds: median of the steps since the point before, by the wall clock.
        renewal_seconds: of the renewal alone, by the wall clock; `renewals.py` compares the two on equal terms.
    """

    step: int
    train_loss: float
    test_loss: float | None = None
    test_accuracy: float | None = None
    flip_rate: float | None = None
    retained: float | None = None
    gap: float | None = None
    step_seconds: float | None = None
    renewal_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run.

    Args:
        state: the dense state dict; None under masks.
        parameters, under_mask: weights in all, and those under masks.
        decay: rate of the decay of masked-out weights, or None.
    """

    points: list[Point]
    state: dict[str, Tensor] | None
    parameters: int
    under_mask: int
    decay: float | None = None


def build(size: Size, data: Data, seed: int) -> nn.Module:
    """The network of a size, initialised by the seed."""
    torch.manual_seed(seed)
    if isinstance(size, VisionSize):
        assert isinstance(data, Images)
        return ResNet(data.train[0].shape[1], data.classes, size.width, size.blocks)
    assert isinstance(data, Text)
    return Gpt(data.classes, size.context, size.width, size.layers, size.heads, size.autocast)


def optimizer_for(model: nn.Module, size: Size, factor: float = 1.0) -> tuple[Optimizer, MaskedDecay]:
    """SGD for images, AdamW for text, with the decay of masked-out weights that goes with each.

    Args:
        factor: of the size's learning rate.
    """
    rate = factor * size.rate
    if isinstance(size, VisionSize):
        sgd = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=size.weight_decay)
        return sgd, MaskedDecay(size.masked_decay, through="weight")
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": size.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, rate, betas=(0.9, 0.95)), MaskedDecay(size.masked_decay)


def rate_factor(step: int, steps: int) -> float:
    """A linear rise, then a cosine down to 0."""
    warm = max(1, round(_WARM_UP * steps))
    return (step + 1) / warm if step < warm else 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm))


def run(
    size: Size,
    data: Data,
    setting: Setting,
    seed: int,
    device: torch.device,
    every: int,
    pretrained: dict[str, Tensor] | None = None,
    progress: Callable[[int], object] = lambda step: None,
) -> Outcome:
    """Train for the steps of the size.

    Args:
        every: steps between renewals, and between points.
        pretrained: the state to begin with, where the setting does not start from scratch.
        progress: called with the step behind each.
    """
    model = build(size, data, seed)
    if pretrained is not None:
        model.load_state_dict(pretrained)
    model.to(device)
    optimizer, usual = optimizer_for(model, size, setting.rate)
    decay = None
    if setting.masks != "none":
        decay = _decay(size, data, setting, seed, device, every, usual)
    sparsifier, renewals = _masked(model, setting, optimizer, decay, every, size.steps)
    watched = FlipRate(model, "2:4", solver=OPTIMUM, exclude=DENSE_LAYERS) if setting == Setting("none") else None
    if watched is not None:
        watched()
    # Behind the masks, which may have brought parameters of their own.
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, size.steps))
    tests = {round(size.steps * (i + 1) / TESTS / every) * every for i in range(TESTS - 1)} | {size.steps}
    points: list[Point] = []
    losses: list[Tensor] = []
    seconds: list[float] = []
    # A network that starts from a trained one sees other batches than that one did.
    batches = data.batches(2 * seed + setting.pretrained, size.batch, size.steps)
    for step, (inputs, targets) in enumerate(batches, start=1):
        begin = time.perf_counter()
        model.train()
        loss = loss_of(model(inputs.to(device)), targets.to(device))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        rates.step()
        losses.append(loss.detach())
        # The device works on behind Python: the clock must wait for it.
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
        if step % every == 0 or step == size.steps:
            point = Point(step, float(torch.stack(losses).mean()), step_seconds=statistics.median(seconds))
            if step in tests:
                point.test_loss, point.test_accuracy = test(model, data, device)
            _note_renewal(point, *renewals.get(step, (None, None)))
            if watched is not None:
                point.flip_rate = watched()
            points.append(point)
            losses, seconds = [], []
        progress(step)
    if setting.pretrained and not setting.levers and 0 in renewals:
        _note_renewal(points[0], *renewals[0])
        points[0].flip_rate = None  # from no mask at all
    under_mask = sum(layer.weight.numel() for layer in sparsifier.layers) if sparsifier else 0
    # Only dense runs are started from by others.
    state = None if sparsifier else {name: value.cpu() for name, value in model.state_dict().items()}
    weights = sum(p.numel() for p in model.parameters())
    return Outcome(points, state, weights, under_mask, None if decay is None else decay.rate)


Renewals = dict[int, tuple[Renewal, Worth | None]]


def _masked(
    model: nn.Module, setting: Setting, optimizer: Optimizer, decay: MaskedDecay | None, every: int, steps: int
) -> tuple[Sparsifier | None, Renewals]:
    """Masks on the model, where the setting has any; and a record of all renewals to come, by step."""
    renewals: Renewals = {}
    sparsifier: Sparsifier | None = None
    if setting.masks == "none":
        return None, renewals

    def worth(renewal: Renewal) -> Worth | None:
        if setting.masks == "plain":
            return Worth(renewal.worth.objective, renewal.worth.total, None)
        return None if sparsifier is None else plain_worth(sparsifier, renewal)

    def renewed(renewal: Renewal) -> None:
        renewals[renewal.step] = renewal, worth(renewal)

    sparsifier = put_masks(model, setting, optimizer, decay, every, steps, renewed)
    # The first masks were reported before there was a Sparsifier to look at.
    for step, (renewal, _) in list(renewals.items()):
        renewals[step] = renewal, worth(renewal)
    return sparsifier, renewals


# Of the trials that find a decay: [Hu2024] takes a short part of the training.
_CANDIDATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_TRIAL = 0.2


def _decay(
    size: Size, data: Data, setting: Setting, seed: int, device: torch.device, every: int, usual: MaskedDecay
) -> MaskedDecay | None:
    """Of masked-out weights, as the setting has it."""
    if setting.combination.decay == "found":
        steps = max(3 * every, round(_TRIAL * size.steps / every) * every)

        def trial(rate: float) -> float:
            return _trial(size, data, setting, seed, device, every, steps, rate, usual)

        return dataclasses.replace(usual, rate=find_decay(trial, _CANDIDATES).rate)
    return usual if setting.combination.decay == "usual" else None


def _trial(
    size: Size,
    data: Data,
    setting: Setting,
    seed: int,
    device: torch.device,
    every: int,
    steps: int,
    rate: float,
    usual: MaskedDecay,
) -> float:
    """The mean flip rate of the first steps of a training, under a decay; of dense training for the rate 0."""
    model = build(size, data, seed).to(device).train()
    optimizer, _ = optimizer_for(model, size, setting.rate)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, size.steps))
    flips: list[float] = []
    watched = FlipRate(model, setting.pattern, solver=OPTIMUM, exclude=DENSE_LAYERS)
    if rate:
        decay = dataclasses.replace(usual, rate=rate)
        put_masks(model, setting, optimizer, decay, every, size.steps, lambda found: flips.append(found.flip_rate))
    else:
        flips.append(0.0)  # in the place of the first masks, which are left out below
        watched()
    for step, (inputs, targets) in enumerate(data.batches(2 * seed, size.batch, steps), start=1):
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(model(inputs.to(device)), targets.to(device)))
        optimizer.step()
        rates.step()
        if not rate and step % every == 0:
            flips.append(watched() or 0.0)
    return statistics.fmean(flips[1:])


def _note_renewal(point: Point, renewal: Renewal | None, worth: Worth | None) -> None:
    if renewal is None:
        return
    point.flip_rate, point.renewal_seconds = renewal.flip_rate, renewal.seconds
    if worth is not None:
        point.retained, point.gap = worth.retained, worth.optimality_gap


@torch.no_grad()
def test(model: nn.Module, data: Data, device: torch.device) -> tuple[float, float]:
    """Mean loss and accuracy on everything held out."""
    model.eval()
    loss, right, count = 0.0, 0, 0
    for inputs, targets in data.held_out():
        logits, wanted = model(inputs.to(device)), targets.to(device)
        # Weighted by size, since the last batch may be smaller.
        loss += float(loss_of(logits, wanted)) * wanted.numel()
        right += int((logits.argmax(-1) == wanted).sum())
        count += wanted.numel()
    return loss / count, right / count


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats: logits (B, classes) and (B,), or (B, T, V) and (B, T)."""
    return functional.cross_entropy(logits.flatten(0, -2).float(), targets.flatten())

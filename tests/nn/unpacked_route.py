"""A route for tests: packs as the kernels do, on a CPU, and multiplies what it unpacks."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from tmask.nn.packing import routes
from tmask.nn.packing.layout import _pack_rows, unpack_rows
from tmask.nn.packing.routes.base import TOKENS_MULTIPLE, Route


class Unpacked(Route):
    """Counts what it is asked for; `shift` makes its products wrong."""

    name: ClassVar[str] = "unpacked"
    device_type: ClassVar[str] = "cpu"
    hardware: ClassVar[str] = "tests"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float16, torch.bfloat16)
    multiple: ClassVar[int] = 32

    def __init__(self):
        self.plans = self.packs = self.products = 0
        self.shift = 0

    def problem(self, device):
        return "" if device.type == "cpu" else f"no {device.type} in tests"

    def plan(self, mask, dtype):
        self.plans += 1
        return [mask.clone()]

    def pack(self, weight, plan):
        self.packs += 1
        (mask,) = plan  # as kernels do, it trusts the mask
        return list(_pack_rows(weight, mask)), list(_pack_rows(weight.t(), mask.t()))

    def product(self, tokens, operand, rows, bias):
        self.products += 1
        assert tokens.is_contiguous()
        assert len(tokens) % TOKENS_MULTIPLE == 0 < len(tokens)
        weight, _ = unpack_rows(*operand)
        assert weight.shape == (rows, tokens.shape[1])
        assert weight.dtype == tokens.dtype
        return torch.nn.functional.linear(tokens, weight.roll(self.shift, 0), bias)


@pytest.fixture
def unpacked(monkeypatch):
    """The route, known for one test."""
    route = Unpacked()
    monkeypatch.setitem(routes.ROUTES, route.name, route)
    return route

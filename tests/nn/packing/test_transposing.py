"""Transposed results as contiguous ones: by torch, by a kernel that stands in, and by the real one where it can run."""

from __future__ import annotations

import logging

import pytest
import torch

from tests.nn.triton_interpreter import run_interpreted
from tmask.nn.mask.believed import Believed
from tmask.nn.packing import transposing
from tmask.nn.packing.transposing import contiguous

HALVES = [torch.float16, torch.bfloat16]


@pytest.fixture
def launches(monkeypatch):
    """A stand-in for the kernel, which the CPU then takes, for matrices however small; its launches are counted."""
    calls = []

    def launch(matrix, turned):
        assert turned.is_contiguous()
        assert matrix.stride(1) == 1
        calls.append(matrix.shape)
        turned.copy_(matrix.t())

    monkeypatch.setattr(transposing, "_kernels", Believed("transposed results are copied by torch", ("cpu",), large=0))
    monkeypatch.setattr(transposing, "_launch", launch)
    return calls


def padded(rows, cols, dtype, room=8):
    """A result (rows, cols) that lies transposed, with room behind each column."""
    return torch.randn(cols, rows + room).to(dtype).t()[:rows]


@pytest.mark.parametrize("dtype", HALVES)
def test_one_launch_lays_out_what_lies_transposed(launches, dtype):
    for room in (0, 8):
        matrix = padded(24, 40, dtype, room)
        result = contiguous(matrix)
        assert result.is_contiguous()
        assert torch.equal(result, matrix)
    assert launches[1:] == [(40, 24)] * 2, "after a trial"


def test_what_lies_otherwise_is_left_to_torch(launches):
    plain = torch.randn(6, 8).half()
    assert contiguous(plain) is plain
    for matrix in (padded(6, 8, torch.float32), torch.randn(8, 12).half().t()[::2], torch.randn(2, 3, 4).half().mT):
        assert torch.equal(contiguous(matrix), matrix)
        assert contiguous(matrix).is_contiguous()
    assert not launches


@pytest.mark.parametrize("when", ["at first", "later"])
def test_a_kernel_that_fails_is_replaced_by_torch(launches, monkeypatch, caplog, when):
    matrix = padded(24, 40, torch.float16)
    if when == "later":
        contiguous(matrix)

    def fail(*_):
        raise RuntimeError("launch failure")

    monkeypatch.setattr(transposing, "_launch", fail)
    with caplog.at_level(logging.WARNING, "tmask"):
        for _ in range(2):
            assert torch.equal(contiguous(matrix), matrix)
    assert len(caplog.records) == 1
    assert "launch failure" in caplog.text


INTERPRETED = """
import torch
from tmask.nn.packing import transposing_kernel
for rows, cols, room in ((16, 16, 0), (80, 144, 8), (130, 70, 2)):
    matrix = torch.randint(-9, 9, (rows, cols + room), dtype=torch.int16)[:, :cols]
    turned = torch.full((cols, rows), 77, dtype=torch.int16)
    transposing_kernel.turn(matrix, turned)
    assert torch.equal(turned, matrix.t()), (rows, cols, room)
"""


def test_the_kernel_in_tritons_interpreter():
    run_interpreted(INTERPRETED)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", HALVES)
def test_on_cuda(dtype):
    matrix = torch.randn(4104, 2064, device="cuda").to(dtype).t()[:2056]
    assert torch.equal(contiguous(matrix), matrix)
    assert contiguous(matrix).is_contiguous()
    assert transposing._kernels.knows(matrix.device, 2), "the kernel was not believed"

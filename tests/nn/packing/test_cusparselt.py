"""What is particular to the cuSPARSELt route, on emulated kernels."""

from __future__ import annotations

import pytest
import torch

from tests.nn.linears import masked_linear
from tmask.nn.packing import attaching

HALVES = [torch.float16, torch.bfloat16]


@pytest.fixture
def asked(monkeypatch):
    """Whether each product asked the library to transpose its result, by dtype."""
    calls = []
    real = torch._cslt_sparse_mm

    def noted(compressed, dense, **options):
        calls.append((dense.dtype, options.get("transpose_result", False)))
        return real(compressed, dense, **options)

    monkeypatch.setattr(torch, "_cslt_sparse_mm", noted)
    return calls


def run(layer, x, upstream):
    """Output, and the gradients of input, weight and bias."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    result = layer(x)
    result.backward(upstream)
    return [result.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("bias", [True, False])
def test_float16_never_asks_for_a_transposed_result_and_is_right(emulated_cusparselt, asked, dtype, bias):
    layer = masked_linear(dtype=dtype, bias=bias)
    x, upstream = torch.randn(3, 8, 128).to(dtype), torch.randn(3, 8, 64).to(dtype)
    expected = run(layer, x, upstream)
    attaching.attach(layer)
    assert asked, "products are verified first"
    ours = run(layer, x, upstream)
    assert len(asked) >= 2
    assert set(asked) == {(dtype, dtype == torch.bfloat16)}
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-2 * float(other.abs().max()))

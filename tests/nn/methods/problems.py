"""Problems that the tests of methods draw: inputs that depend on one another, of very different size, some always 0."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from tmask.nn.methods.problem import Problem
from tmask.nn.methods.support import Plain, Transposable, Unstructured

SUPPORTS = {
    "transposable 2:4": Transposable("2:4"),
    "transposable 3:8": Transposable("3:8"),
    "transposable 2:4 by greedy-keep": Transposable("2:4", solver="greedy-keep", certify=False),
    "plain 2:4": Plain("2:4"),
    "unstructured": Unstructured(0.5),
    "unstructured by row": Unstructured(0.4, across="row"),
}


def inputs(samples, columns, seed=0, dtype=torch.float32, rank=None, dead=()):
    """(S, C) inputs."""
    generator = torch.Generator().manual_seed(seed)
    rank = rank or max(1, columns // 2)
    latent = torch.randn(samples, rank, generator=generator, dtype=dtype)
    spread = torch.exp(torch.randn(columns, generator=generator, dtype=dtype))
    x = latent @ torch.randn(rank, columns, generator=generator, dtype=dtype)
    x = (x + 0.3 * torch.randn(samples, columns, generator=generator, dtype=dtype)) * spread
    x[:, list(dead)] = 0
    return x


def problem(support, rows=12, columns=16, seed=0, dtype=torch.float32, cross=False, samples=200, dead=()):
    """A layer to prune; with `cross`, the inputs of the dense model differ."""
    x = inputs(samples, columns, seed, dtype, dead=dead)
    generator = torch.Generator().manual_seed(seed + 1)
    weight = torch.randn(rows, columns, generator=generator, dtype=dtype)
    moments = x.T @ x / samples
    if not cross:
        return Problem(weight, moments, None, support)
    dense = x + 0.3 * (x @ torch.randn(columns, columns, generator=generator, dtype=dtype)) / columns**0.5
    energy = float((dense.double() @ weight.double().T).square().sum() / samples)
    return Problem(weight, moments, x.T @ dense / samples, support, energy)


def problems(*supports):
    """A strategy: any of the supports, sizes that m does not divide, fewer samples than inputs, dead inputs."""
    return st.builds(
        lambda support, rows, columns, seed, cross, samples, dead: problem(
            support, rows, columns, seed, torch.float64, cross, samples, range(min(dead, columns))
        ),
        st.sampled_from(supports or (*SUPPORTS.values(),)),
        st.integers(1, 14),
        st.integers(1, 18),
        st.integers(0, 2**16),
        st.booleans(),
        st.sampled_from((3, 40, 200)),
        st.integers(0, 2),
    )

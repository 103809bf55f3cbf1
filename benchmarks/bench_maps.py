"""Attention with maps, forward and backward: every ready backend beside plain attention without maps.

Run by ``make bench``. Sizes: the bundled model's recorded layers, and SD 1.5's at 512 pixels.
"""

from __future__ import annotations

import pytest
import torch

from sdk.kernels import attention_with_maps, available_backends

SIZES = {"bundled": (8, 3, 256, 32, 32), "SD1.5": (2, 8, 256, 77, 160)}
READY = [name for name, status in available_backends().items() if status == "ready"]


def tensors(size: str):
    batch, heads, pixels, tokens, width = SIZES[size]
    torch.manual_seed(0)
    query = torch.randn(batch, heads, pixels, width, requires_grad=True)
    key, value = (torch.randn(batch, heads, tokens, width, requires_grad=True) for _ in range(2))
    return (query, key, value), torch.randint(0, tokens, (batch, 4))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backend", [*READY, "no maps"])
def test_forward_and_backward(benchmark, size, backend):
    inputs, indices = tensors(size)
    benchmark.group = size

    def step():
        if backend == "no maps":
            out = torch.nn.functional.scaled_dot_product_attention(*inputs)
            return torch.autograd.grad(out.sum(), inputs)
        out, maps = attention_with_maps(*inputs, indices, backend=backend)
        return torch.autograd.grad(out.sum() + maps.square().sum(), inputs)

    got = benchmark.pedantic(step, warmup_rounds=3, rounds=20)
    if backend != "no maps":
        out, maps = attention_with_maps(*inputs, indices, backend="reference")
        want = torch.autograd.grad(out.sum() + maps.square().sum(), inputs)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)

"""Any shape: every backend that is ready here against the reference in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk.kernels import attention_with_maps, available_backends, calibration_loss
from tests.kernels.devices import device_of

READY = [name for name, status in available_backends().items() if status == "ready" and name != "reference"]
# The interpreter of Triton takes a tenth of a second for what the others do in a thousandth.
EXAMPLES = {"triton": 8}
sizes = st.integers(1, 40)


@pytest.mark.parametrize("backend", READY)
def test_attention(backend):
    @settings(max_examples=EXAMPLES.get(backend, 40), deadline=None, derandomize=True)
    @given(st.integers(1, 3), st.integers(1, 3), sizes, sizes, sizes, st.integers(0, 6), st.integers(0, 2**31))
    def check(batch, heads, pixels, tokens, width, tracked, seed):
        generator = torch.Generator().manual_seed(seed)
        shapes = [(batch, heads, n, width) for n in (pixels, tokens, tokens)]
        device = device_of(backend)
        tensors = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
        indices = torch.randint(-1, tokens, (batch, tracked), generator=generator).to(device)
        results = []
        for name, convert in ((backend, torch.Tensor.float), ("reference", torch.Tensor.double)):
            leaves = [convert(x).requires_grad_() for x in tensors]
            out, maps = attention_with_maps(*leaves, indices, backend=name)
            assert maps.shape == (batch, tracked, pixels)
            grads = torch.autograd.grad(out.square().sum() + maps.square().sum(), leaves)
            results.append([out, maps, *grads])
        for ours, exact in zip(*results, strict=True):
            torch.testing.assert_close(ours.double(), exact, rtol=2e-4, atol=2e-5)

    check()


@pytest.mark.parametrize("backend", [name for name in READY if name != "augmented_v"])
def test_loss(backend):
    @settings(max_examples=EXAMPLES.get(backend, 40), deadline=None, derandomize=True)
    @given(st.integers(1, 3), st.integers(1, 4), st.integers(2, 20), st.integers(2, 20), st.integers(0, 2**31))
    def check(batch, concepts, height, width, seed):
        generator = torch.Generator().manual_seed(seed)
        maps = torch.rand(batch, 2 * concepts, height, width, generator=generator).to(device_of(backend))
        results = []
        for name, precise in ((backend, maps), ("reference", maps.double())):
            precise = precise.clone().requires_grad_()
            loss = calibration_loss(precise, backend=name)
            results.append((loss, *torch.autograd.grad(loss.sum(), precise)))
        torch.testing.assert_close(results[0][0].double(), results[1][0], rtol=0, atol=2e-6)
        torch.testing.assert_close(results[0][1].double(), results[1][1], rtol=1e-4, atol=1e-6)

    check()

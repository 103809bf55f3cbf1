"""Attention, maps, calibration loss and all gradients on the CPU, with every provider there is: ``make bench``."""

from __future__ import annotations

import pytest
import torch

from benchmarks.providers import make_inputs, ours, providers, same_gradients

CASES = [("SD1.5 16x16 B=8", 1), ("bundled B=8", 3)]
PROVIDERS = providers("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("size", "layers"), CASES, ids=[size for size, _ in CASES])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_forward_loss_and_backward(benchmark, provider, size, layers, dtype):
    arguments = make_inputs(size, dtype, "cpu", layers)
    benchmark.group = f"{size}, {layers} layers, {str(dtype)[6:]}"
    if "without maps" not in provider:
        assert same_gradients(PROVIDERS[provider], lambda *a: ours(*a, backend="reference"), arguments)
    benchmark.pedantic(PROVIDERS[provider], args=arguments, warmup_rounds=3, rounds=15)

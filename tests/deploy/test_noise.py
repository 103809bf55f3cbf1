"""One generator for both sides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdk.deploy.samplers.noise import Noise


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**31 - 1, 2**32 - 1, 2**40 + 3])
def test_numpy_draws_what_torch_draws(seed):
    generator, noise = torch.Generator().manual_seed(seed), Noise(seed)
    for shape in ((1, 4, 64, 64), (2, 3, 5), (16,), (1, 8, 16, 16), (17,), (101,)):
        want = torch.randn(shape, generator=generator).numpy()
        np.testing.assert_allclose(noise.normal(shape), want, atol=2e-6, rtol=1e-5)


def test_few_numbers_are_refused():
    with pytest.raises(ValueError, match="at least 16"):
        Noise(0).normal((3, 5))

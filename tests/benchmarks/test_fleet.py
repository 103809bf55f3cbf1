"""What the page about fleets rests on: gradients of fits in one pass, and hits of what is remembered."""

from __future__ import annotations

import pytest
import torch

from benchmarks.fleet.sizes import hits, trace
from benchmarks.fleet.together import passes


def test_fits_in_one_pass_have_the_gradients_of_each_alone(personalizer):
    apart, together = passes(personalizer.pipe.unet, fits=3, rows=2)
    pairs = list(zip(apart(), together(), strict=True))
    assert pairs
    for own, shared in pairs:
        assert own.shape[0] == 3
        assert own.abs().max() > 0
        torch.testing.assert_close(own, shared, rtol=1e-4, atol=1e-6 * float(own.abs().max()) + 1e-9)


def test_hits_grow_with_what_is_remembered_and_with_the_exponent():
    assert hits(100, 1.0, 100, requests=2000) == 1.0
    some = [hits(10_000, 1.0, remembered, requests=2000) for remembered in (10, 100, 1000)]
    assert some == sorted(some)
    assert some[0] < some[2]
    assert hits(10_000, 1.2, 100, requests=2000) > hits(10_000, 0.8, 100, requests=2000)


def test_a_trace_follows_zipf():
    asked = list(trace(1000, 1.0, 100_000))
    assert asked.count(0) / asked.count(9) == pytest.approx(10, rel=0.2)

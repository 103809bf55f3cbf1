"""The compiled CPU library on numpy arrays, on every instruction set that this processor has."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from sdk.bindings import arrays
from tests.instruction_sets import ALL, computing_on, needs_library

needs_library()


@pytest.fixture(params=ALL)
def instruction_set(request):
    with computing_on(request.param) as name:
        yield name


def expected(query, key, value, tokens, scale):
    logits = np.einsum("bhnd,bhtd->bhnt", query, key) * scale
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mean = weights.mean(1)
    maps = np.zeros((len(query), tokens.shape[1], query.shape[2]))
    for row, slot in np.ndindex(*tokens.shape):
        if tokens[row, slot] >= 0:
            maps[row, slot] = mean[row, :, tokens[row, slot]]
    return np.einsum("bhnt,bhtd->bhnd", weights, value), maps


def inputs(batch=2, heads=3, pixels=70, tokens=77, width=40):
    rng = np.random.default_rng(0)
    query = rng.normal(size=(batch, heads, pixels, width))
    key, value = rng.normal(size=(2, batch, heads, tokens, width))
    indices = rng.integers(0, tokens, (batch, 4))
    indices[0, 2] = -1
    return query, key, value, indices


def test_forward(instruction_set):
    assert arrays.instruction_set() == instruction_set
    query, key, value, indices = inputs()
    out, maps = arrays.attention_with_maps(query, key, value, indices, scale=0.2)
    want_out, want_maps = expected(query, key, value, indices, 0.2)
    np.testing.assert_allclose(out, want_out, atol=2e-6)
    np.testing.assert_allclose(maps, want_maps, atol=1e-6)


def test_backward_matches_finite_differences(instruction_set):
    query, key, value, indices = inputs(1, 2, 6, 5, 3)
    rng = np.random.default_rng(1)
    grad_out, grad_maps = rng.normal(size=query.shape), rng.normal(size=(1, 4, 6))

    def weighted(parts):
        out, maps = expected(*parts, indices, 3**-0.5)
        return (out * grad_out).sum() + (maps * grad_maps).sum()

    grads = arrays.attention_with_maps_backward(grad_out, grad_maps, query, key, value, indices)
    for which, grad in enumerate(grads):
        for place in list(np.ndindex(*grad.shape))[::3]:
            moved = []
            for step in (1e-5, -1e-5):
                parts = [query.copy(), key.copy(), value.copy()]
                parts[which][place] += step
                moved.append(weighted(parts))
            assert grad[place] == pytest.approx((moved[0] - moved[1]) / 2e-5, abs=2e-5)


def test_without_gradient_of_the_maps():
    query, key, value, indices = inputs(1, 1, 5, 5, 4)
    grad_out = np.ones(query.shape)
    none = arrays.attention_with_maps_backward(grad_out, None, query, key, value, indices)
    zero = arrays.attention_with_maps_backward(grad_out, np.zeros((1, 4, 5)), query, key, value, indices)
    for a, b in zip(none, zero, strict=True):
        np.testing.assert_array_equal(a, b)


def test_loss_gradient_matches_finite_differences():
    maps = np.random.default_rng(0).random((1, 4, 5, 5)).astype(np.float32)
    loss, grad = arrays.calibration_loss(maps, bind=0.0)
    assert loss.shape == (1,)
    for place in [(0, 1, 2, 2), (0, 3, 0, 0), (0, 1, 4, 1)]:
        moved = []
        for step in (1e-3, -1e-3):
            other = maps.copy()
            other[place] += step
            moved.append(float(arrays.calibration_loss(other, bind=0.0)[0][0]))
        assert grad[place] == pytest.approx((moved[0] - moved[1]) / 2e-3, abs=2e-3)


def test_threads_do_not_change_the_answer():
    query, key, value, indices = inputs()
    one = arrays.attention_with_maps(query, key, value, indices, threads=1)
    three = arrays.attention_with_maps(query, key, value, indices, threads=3)
    assert all(np.array_equal(a, b) for a, b in zip(one, three, strict=True))


def test_mistakes_are_named():
    query, key, value, indices = inputs(1, 1, 4, 4, 4)
    with pytest.raises(ValueError, match="same B, H and D"):
        arrays.attention_with_maps(query, key[:, :, :, :2], value[:, :, :, :2], indices)
    with pytest.raises(ValueError, match="token index"):
        arrays.attention_with_maps(query, key, value, [[4]])
    with pytest.raises(ValueError, match="2S"):
        arrays.calibration_loss(np.zeros((1, 3, 4, 4)))
    with pytest.raises(TypeError, match="no option 'sigmas'"):
        arrays.calibration_loss(np.zeros((1, 2, 4, 4)), sigmas=1.0)
    with pytest.raises(ValueError, match="mmx"):
        arrays.use_instruction_set("mmx")


def test_works_without_torch():
    code = (
        "import sys, numpy; from sdk.bindings import arrays;"
        "arrays.attention_with_maps(*(numpy.ones((1, 1, 4, 4)) for _ in range(3)), [[1]]);"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

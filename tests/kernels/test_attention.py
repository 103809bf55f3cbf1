"""Attention with maps: the reference against the definition, the augmented-V path against the reference."""

from __future__ import annotations

import pytest
import torch

from sdk.kernels import attention_with_maps, available_backends, calibrated_attention, calibration_loss
from tests.kernels.devices import device_of

SHAPES = [
    pytest.param((2, 8, 256, 77, 160), id="SD1.5-16x16"),
    pytest.param((3, 3, 256, 32, 32), id="bundled"),
    pytest.param((1, 1, 1, 1, 1), id="ones"),
    pytest.param((2, 2, 129, 63, 40), id="odd"),
]


def inputs(batch, heads, pixels, tokens, width, dtype=torch.float64):
    torch.manual_seed(0)
    query = torch.randn(batch, heads, pixels, width, dtype=dtype, requires_grad=True)
    key, value = (torch.randn(batch, heads, tokens, width, dtype=dtype, requires_grad=True) for _ in range(2))
    indices = torch.randint(0, tokens, (batch, 5))
    indices[0, 1] = -1
    return query, key, value, indices


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", ["reference", "augmented_v"])
def test_forward_and_gradients_against_the_definition(shape, backend):
    query, key, value, indices = inputs(*shape)
    out, maps = attention_with_maps(query, key, value, indices, backend=backend)
    probabilities = torch.einsum("bhnd,bhtd->bhnt", query, key).mul(shape[-1] ** -0.5).softmax(-1)
    expected_out = torch.einsum("bhnt,bhtd->bhnd", probabilities, value)
    expected_maps = torch.zeros(shape[0], 5, shape[2], dtype=torch.float64)
    for row in range(shape[0]):
        for slot, token in enumerate(indices[row].tolist()):
            if token >= 0:
                expected_maps[row, slot] = probabilities[row, :, :, token].mean(0)
    torch.testing.assert_close(out, expected_out)
    torch.testing.assert_close(maps, expected_maps)
    weight_out, weight_maps = torch.randn_like(out), torch.randn_like(maps)
    got = torch.autograd.grad((out * weight_out).sum() + (maps * weight_maps).sum(), (query, key, value))
    want = torch.autograd.grad(
        (expected_out * weight_out).sum() + (expected_maps * weight_maps).sum(), (query, key, value)
    )
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", ["reference", "augmented_v"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_stays_close(backend, dtype):
    query, key, value, indices = inputs(2, 2, 64, 20, 16)
    exact_out, exact_maps = attention_with_maps(query, key, value, indices)
    low = [x.detach().to(dtype) for x in (query, key, value)]
    out, maps = attention_with_maps(*low, indices, backend=backend)
    assert out.dtype == dtype
    assert maps.dtype == torch.float32
    budget = 8 * torch.finfo(dtype).eps
    assert (out.double() - exact_out).abs().max() <= budget * exact_out.abs().max()
    assert (maps.double() - exact_maps).abs().max() <= budget


def test_the_map_sums_to_one_over_tokens():
    query, key, value, _ = inputs(1, 2, 9, 6, 4)
    _, maps = attention_with_maps(query, key, value, torch.arange(6)[None])
    torch.testing.assert_close(maps.sum(1), torch.ones(1, 9, dtype=torch.float64))


def test_a_named_backend_never_falls_back():
    query, key, value, indices = inputs(1, 1, 4, 4, 4)
    for name, status in available_backends().items():
        if status != "ready":
            with pytest.raises(ValueError, match="cannot be used here"):
                attention_with_maps(query, key, value, indices, backend=name)


BACKENDS = sorted(name for name, status in available_backends().items() if status == "ready")


@pytest.mark.parametrize("backend", [None, *BACKENDS])
def test_bad_input_is_named(backend):
    query, key, value, indices = (x.float() if x.is_floating_point() else x for x in inputs(2, 2, 9, 6, 4))

    def refused(kind, match, *arguments):
        with pytest.raises(kind, match=match):
            attention_with_maps(*arguments, backend=backend)

    refused(ValueError, "same B, H and D", query[0], key, value, indices)
    refused(ValueError, "same B, H and D", query, key[:, :1], value[:, :1], indices)
    refused(ValueError, "same B, H and D", query, key, value[:, :, 1:], indices)
    refused(ValueError, "token_indices must be int64", query, key, value, indices.float())
    refused(ValueError, "token_indices must be -1 or a position in 0..5", query, key, value, indices * 0 + 6)
    refused(ValueError, "on one device", query.to("meta"), key, value, indices)
    refused(TypeError, "one floating-point type", query.half(), key, value, indices)
    refused(TypeError, "key must be a tensor, got list", query, [1.0], value, indices)
    if backend == "triton":
        refused(ValueError, "at most 16 tokens, token_indices has 17", query, key, value, torch.zeros(2, 17).long())
    maps = torch.rand(1, 3, 4, 4)
    for wrong, kind, match in ((maps, ValueError, "S >= 1"), (maps[0], ValueError, "S >= 1"), ([], TypeError, "maps")):
        with pytest.raises(kind, match=match):
            calibration_loss(wrong, backend=backend)
    with pytest.raises(ValueError, match="one tensor per layer, got 2, 1 and 1"):
        calibrated_attention([query, query], [key], [value], indices, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_layout_does_not_matter(backend):
    device = device_of(backend)
    query, key, value, indices = (
        x.to(device, torch.float32 if x.is_floating_point() else x.dtype) for x in inputs(2, 2, 9, 6, 4)
    )
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (query, key, value)]
    assert not any(x.is_contiguous() for x in strided)
    want = attention_with_maps(query, key, value, indices, backend=backend)
    got = attention_with_maps(*strided, indices.T.contiguous().T, backend=backend)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)

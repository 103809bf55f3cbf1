"""Kernels have first derivatives; whatever asks for others gets the reference's, or is told so."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

from sdk.kernels import attention_with_maps, available_backends, calibration_loss
from tests.kernels.devices import device_of

KERNELS = [name for name in ("cpp", "triton") if available_backends().get(name) == "ready"]
TOKENS = torch.tensor([[1, 2], [3, -1]])


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return [torch.randn(2, 3, rows, 8) for rows in (4, 7, 7)]


@pytest.mark.parametrize("backend", KERNELS)
def test_a_second_derivative_of_attention_is_refused(tensors, backend):
    query, key, value, tokens = (x.to(device_of(backend)) for x in (*tensors, TOKENS))
    query.requires_grad_()
    out, maps = attention_with_maps(query, key, value, tokens, backend=backend)
    for result in (out, maps):
        (gradient,) = torch.autograd.grad(result.square().sum(), query, create_graph=True)
        with pytest.raises(RuntimeError, match="first derivatives alone.*backend='reference'"):
            torch.autograd.grad(gradient.square().sum(), query, retain_graph=True)


@pytest.mark.parametrize("backend", KERNELS)
def test_a_second_derivative_of_the_loss_is_refused(backend):
    torch.manual_seed(0)
    maps = torch.rand(2, 4, 5, 5, device=device_of(backend), requires_grad=True)
    loss = calibration_loss(maps, backend=backend).sum()
    (gradient,) = torch.autograd.grad(loss, maps, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives alone.*backend='reference'"):
        torch.autograd.grad(gradient.square().sum(), maps)


@pytest.mark.parametrize("backend", KERNELS)
def test_first_derivatives_are_the_same_with_a_graph_of_them(tensors, backend):
    query, key, value, tokens = (x.to(device_of(backend)) for x in (*tensors, TOKENS))
    query.requires_grad_()
    out, maps = attention_with_maps(query, key, value, tokens, backend=backend)
    loss = out.square().sum() + maps.sum()
    (plain,) = torch.autograd.grad(loss, query, retain_graph=True)
    (graphed,) = torch.autograd.grad(loss, query, create_graph=True)
    assert torch.equal(plain, graphed)
    (other,) = torch.autograd.grad((query**3).sum() + graphed.detach().sum(), query)
    assert torch.equal(other, 3 * query.detach() ** 2)


@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_torch_func_gets_the_references_derivatives(tensors, name):
    index = ("query", "key", "value").index(name)

    def computed(given, backend=None):
        arguments = [*tensors[:index], given, *tensors[index + 1 :]]
        return attention_with_maps(*arguments, TOKENS, backend=backend)[0]

    tangent = torch.ones_like(tensors[index])
    wanted = torch.func.jvp(lambda x: computed(x, "reference"), (tensors[index],), (tangent,))[1]
    assert wanted.abs().sum() > 1 or name == "key"  # all keys moved alike change no attention
    found = torch.func.jvp(computed, (tensors[index],), (tangent,))[1]
    torch.testing.assert_close(found, wanted)
    gradient = torch.func.grad(lambda x: computed(x).square().sum())(tensors[index])
    torch.testing.assert_close(
        gradient, torch.func.grad(lambda x: computed(x, "reference").square().sum())(tensors[index])
    )
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(tensors[index], tangent)
        torch.testing.assert_close(forward_ad.unpack_dual(computed(dual)).tangent, wanted)


@pytest.mark.parametrize("backend", KERNELS)
def test_a_kernel_that_was_asked_for_says_so(tensors, backend):
    query, key, value = tensors
    with pytest.raises(ValueError, match=r"torch\.func.*backend='reference'"):
        torch.func.grad(lambda x: attention_with_maps(x, key, value, TOKENS, backend=backend)[0].sum())(query)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(value, torch.ones_like(value))
        with pytest.raises(ValueError, match="forward mode"):
            attention_with_maps(query, key, dual, TOKENS, backend=backend)
        maps = forward_ad.make_dual(torch.rand(1, 4, 5, 5), torch.ones(1, 4, 5, 5))
        with pytest.raises(ValueError, match="forward mode"):
            calibration_loss(maps, backend=backend)

"""The library's gradient of attention over many keys: right, repeatable, and taken where it is meant to be."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sdk.bindings import arrays
from sdk.kernels import attention
from sdk.kernels.impl import cpp, long_attention
from tests.instruction_sets import computing_on, needs_library

needs_library()


@pytest.fixture(params=["amx", "avx512_bf16", "tiles"])
def pairs(request):
    with computing_on(request.param) as name:
        yield name


def inputs(batch=1, heads=2, queries=96, keys=512, width=40, spread=1.0):
    torch.manual_seed(0)
    rows = (queries, keys, keys, queries)
    return [(spread * torch.randn(batch, n, heads, width)).bfloat16().transpose(1, 2) for n in rows]


def own(query, key, value, grad, scale):
    out, logsums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, False, scale=scale
    )
    return cpp.long_gradients(grad, query, key, value, out, logsums.contiguous(), scale)


def right(query, key, value, grad, scale):
    leaves = [each.double().requires_grad_() for each in (query, key, value)]
    out = (leaves[0] @ leaves[1].transpose(-1, -2) * scale).softmax(-1) @ leaves[2]
    return torch.autograd.grad(out, leaves, grad.double())


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"batch": 2, "heads": 3, "width": 64},
        {"queries": 32, "keys": 32, "width": 1},
        {"queries": 160, "keys": 288, "width": 80},
        {"queries": 128, "keys": 544, "width": 160},
        {"spread": 3.0},
        {"spread": 20.0},
    ],
)
def test_gradients_are_those_of_the_formula(pairs, sizes):
    query, key, value, grad = inputs(**sizes)
    scale = query.shape[-1] ** -0.5
    for found, wanted in zip(own(query, key, value, grad, scale), right(query, key, value, grad, scale), strict=True):
        assert (found.double() - wanted).norm() <= 0.012 * wanted.norm() + 1e-6
        assert found.shape == wanted.shape


def test_threads_and_layouts_change_no_bit(pairs):
    query, key, value, grad = inputs(batch=2)
    first = own(query, key, value, grad, 0.2)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        dense = [each.contiguous() for each in (query, key, value, grad)]
        for one, other in zip(first, own(*dense, 0.2), strict=True):
            assert torch.equal(one, other)
    finally:
        torch.set_num_threads(before)


def test_what_is_not_finite_stays_so(pairs):
    query, key, value, grad = inputs()
    value[0, 0, 5, 3] = float("nan")
    grads = own(query, key, value, grad, 0.2)
    assert all(found[0, 1].isfinite().all() for found in grads)
    assert all(found[0, 0].isnan().any() for found in grads[:2])  # that of the value does not depend on it


def test_what_it_is_not_made_for_is_refused(pairs):
    for sizes in ({"queries": 40}, {"keys": 500}):
        query, key, value, grad = inputs(**sizes)
        with pytest.raises(ValueError, match="no such value here"):
            own(query, key, value, grad, 0.2)
    query, key, value, grad = (each.float() for each in inputs())
    with pytest.raises(ValueError, match="no such value here"):
        own(query, key, value, grad, 0.2)
    arrays.use_instruction_set("portable")
    with pytest.raises(ValueError, match="no such value here"):
        own(*inputs(), 0.2)


def test_a_call_takes_it_where_a_gradient_is_wanted(monkeypatch):
    monkeypatch.setattr(long_attention, "_ON", ("tiles",))
    query, key, value, grad = inputs()
    with computing_on("tiles"):
        assert not long_attention.takes(query, key, value)
        leaves = [each.requires_grad_() for each in (query, key, value)]
        assert long_attention.takes(*leaves)
        with torch.no_grad():
            assert not long_attention.takes(*leaves)
        assert not long_attention.takes(query, key[:, :, :256], value[:, :, :256])
        assert not long_attention.takes(query[:, :, :40], key, value)
        assert not long_attention.takes(query.float(), key, value)
        out = attention(*leaves)
        assert torch.equal(out, F.scaled_dot_product_attention(*leaves))
        found = torch.autograd.grad(out, leaves, grad, create_graph=True)
        for one, wanted in zip(found, right(query, key, value, grad, 40**-0.5), strict=True):
            assert (one.double() - wanted).norm() <= 0.012 * wanted.norm()
        with pytest.raises(RuntimeError, match="cpp"):
            torch.autograd.grad(found[0].sum(), leaves)

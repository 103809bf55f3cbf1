"""The Triton kernels: on a GPU where there is one, else in Triton's interpreter (float32 and float16, small shapes)."""

from __future__ import annotations

import pytest
import torch
from torch.library import opcheck

from sdk.kernels import (
    attention_with_columns,
    attention_with_maps,
    available_backends,
    calibrated_attention,
    calibration_loss,
)

pytestmark = pytest.mark.skipif(
    available_backends()["triton"] != "ready", reason=f"no Triton: {available_backends()['triton']}"
)
ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
TYPES = [torch.float32, torch.float16] + ([torch.bfloat16] if ON_GPU else [])
SHAPES = [
    pytest.param((1, 2, 70, 77, 160), id="SD1.5"),
    pytest.param((2, 3, 64, 32, 32), id="bundled"),
    pytest.param((1, 1, 33, 77, 40), id="D40"),
    pytest.param((1, 2, 17, 20, 80), id="D80"),
    pytest.param((1, 2, 65, 256, 64), id="SDXL-longest"),
    pytest.param((1, 1, 1, 1, 1), id="ones"),
]
if ON_GPU:
    SHAPES += [pytest.param((8, 8, 256, 77, 160), id="SD1.5-full"), pytest.param((1, 20, 1024, 77, 64), id="SDXL-full")]


def inputs(batch, heads, pixels, tokens, width, dtype, tracked=4):
    torch.manual_seed(0)
    query = torch.randn(batch, pixels, heads, width).transpose(1, 2).to(DEVICE, dtype)
    key, value = (torch.randn(batch, heads, tokens, width).to(DEVICE, dtype) for _ in range(2))
    indices = torch.randint(0, tokens, (batch, tracked))
    indices[0, 1] = -1
    return [query, key, value], indices.to(DEVICE)


def run(tensors, indices, backend):
    tensors = [x.detach().requires_grad_() for x in tensors]
    out, maps = attention_with_maps(*tensors, indices, backend=backend)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).to(x) for x in (out, maps)]
    loss = (out * weights[0]).sum().double() + (maps * weights[1]).sum().double()
    return [out.detach(), maps.detach(), *torch.autograd.grad(loss, tensors)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_error_stays_within_a_small_multiple_of_stock_torch(shape, dtype):
    """The rule of flash-attention's tests: twice plain PyTorch's own error forward, three times backward."""
    tensors, indices = inputs(*shape, dtype)
    exact = run([x.double() for x in tensors], indices, "reference")
    plain = run(tensors, indices, "reference")
    ours = run(tensors, indices, "triton")
    for index, (want, stock, got) in enumerate(zip(exact, plain, ours, strict=True)):
        factor = 2 if index < 2 else 3
        step = torch.finfo(torch.float32 if index == 1 else dtype).eps
        budget = factor * ((stock.double() - want).abs().max() + step * want.abs().max())
        assert torch.isfinite(got).all()
        assert (got.double() - want).abs().max() <= budget


def test_same_answer_every_time():
    tensors, indices = inputs(1, 2, 40, 20, 32, torch.float16)
    first = run(tensors, indices, "triton")
    for _ in range(10):
        assert all(torch.equal(a, b) for a, b in zip(first, run(tensors, indices, "triton"), strict=True))


def test_first_key_can_be_detached():
    tensors, indices = inputs(1, 2, 20, 9, 16, torch.float32)
    free = [x.clone().requires_grad_() for x in tensors]
    held = [x.clone().requires_grad_() for x in tensors]
    for leaves, detach in ((free, False), (held, True)):
        out, columns = attention_with_columns(*leaves, indices, detach_first=detach, backend="triton")
        (out.square().sum() + columns.square().sum()).backward()
    assert torch.equal(free[0].grad, held[0].grad)
    for a, b in zip(free[1:], held[1:], strict=True):
        assert b.grad[:, :, 0].abs().max() == 0
        assert a.grad[:, :, 0].abs().max() > 0
        assert torch.equal(a.grad[:, :, 1:], b.grad[:, :, 1:])


def test_any_strides_will_do():
    tensors, indices = inputs(2, 2, 16, 9, 16, torch.float32)
    scattered = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in tensors]
    want = attention_with_maps(*tensors, indices, backend="triton")
    got = attention_with_maps(*scattered, indices.T.contiguous().T, backend="triton")
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


def test_nothing_of_the_size_of_the_probabilities_is_kept():
    tensors, indices = inputs(1, 2, 64, 77, 16, torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        attention_with_columns(*(x.requires_grad_() for x in tensors), indices, backend="triton")
    assert kept
    assert all(shape.numel() < 2 * 64 * 77 for shape in kept)


@pytest.mark.parametrize("concepts", [1, 2, 3])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"normalize": False}, {"sigma": 0.0}, {"suppress": 0}, {"suppress": 2}, {"smooth": 0.1, "bind": 0.3}],
)
def test_loss_and_gradient_equal_the_reference(concepts, arguments):
    torch.manual_seed(0)
    maps = torch.rand(3, 2 * concepts, 7, 9)
    maps[1] = 0
    maps[2, 0, :2] = maps[2, 0].max()  # ties
    results = []
    for backend, precise in (("triton", maps), ("reference", maps.double())):
        precise = precise.to(DEVICE).clone().requires_grad_()
        loss = calibration_loss(precise, backend=backend, **arguments)
        (grad,) = torch.autograd.grad((loss * torch.tensor([1.0, 2.0, 3.0], device=DEVICE)).sum(), precise)
        results.append((loss.detach().double(), grad.double()))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-7)
    assert results[0][0][1] == 0
    assert results[0][1][1].abs().max() == 0


def test_layers_heads_and_loss_together():
    layers = [inputs(2, heads, 16, 9, 16, torch.float32)[0] for heads in (2, 2, 2)]
    indices = torch.tensor([[1, 2, 4, 5], [-1, -1, -1, -1]], device=DEVICE)
    results = []
    for backend, convert in (("triton", lambda x: x), ("reference", lambda x: x.double())):
        leaves = [[convert(x).clone().requires_grad_() for x in layer] for layer in layers]
        outs, loss = calibrated_attention(*zip(*leaves, strict=True), indices, backend=backend)
        total = sum(out.square().sum() for out in outs) + 3 * loss.sum()
        results.append([loss, *torch.autograd.grad(total, [x for layer in leaves for x in layer])])
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)


def test_operators_pass_opcheck():
    tensors, indices = inputs(1, 2, 16, 7, 8, torch.float32)
    tensors = [x.requires_grad_() for x in tensors]
    opcheck(torch.ops.personalizer.triton_attention.default, (*tensors, indices, 0.3, 0))
    columns = [torch.rand(1, 2, 4, 16, device=DEVICE, requires_grad=True) for _ in range(2)]
    opcheck(torch.ops.personalizer.triton_calibration.default, (columns, 4, 4, True, 0.7, 1, 1.0, 1.0, 1.0))


def test_compiles_without_a_graph_break():
    tensors, _ = inputs(2, 2, 16, 9, 16, torch.float32)
    tensors = [x.requires_grad_() for x in tensors]
    indices = torch.tensor([[1, 2, 4, 5], [-1, -1, -1, -1]], device=DEVICE)

    def step(query, key, value):
        outs, loss = calibrated_attention(
            [query], [key], [value], indices, backend="triton", reduction="mean", sigma=0.5
        )
        return outs[0].sum() + loss

    want = torch.autograd.grad(step(*tensors), tensors)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(*tensors), tensors)
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(a, b)


def test_limits_are_named():
    tensors, indices = inputs(1, 1, 4, 257, 16, torch.float32)
    with pytest.raises(ValueError, match="at most 256 keys"):
        attention_with_maps(*tensors, indices, backend="triton")
    tensors, indices = inputs(1, 1, 4, 20, 16, torch.float32, tracked=17)
    with pytest.raises(ValueError, match="at most 16 tokens"):
        attention_with_maps(*tensors, indices, backend="triton")
    with pytest.raises(ValueError, match="float64"):
        attention_with_maps(*(x.double() for x in tensors), indices[:, :4], backend="triton")


@pytest.mark.skipif(ON_GPU, reason="the interpreter is for machines without a GPU")
def test_the_interpreter_refuses_what_it_computes_wrongly():
    tensors, indices = inputs(1, 1, 4, 4, 16, torch.bfloat16)
    with pytest.raises(ValueError, match="bfloat16"):
        attention_with_maps(*tensors, indices, backend="triton")

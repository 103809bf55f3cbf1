"""The compiled CPU library as torch operators, on every instruction set that this processor has."""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch.library import opcheck

from sdk.kernels import attention_with_maps, available_backends, calibrated_attention, calibration_loss
from tests.instruction_sets import ALL, computing_on

pytestmark = pytest.mark.skipif(
    available_backends()["cpp"] != "ready", reason=f"no compiled CPU library: {available_backends()['cpp']}"
)
SHAPES = [
    pytest.param((2, 8, 256, 77, 160), id="SD1.5-16x16"),
    pytest.param((3, 3, 256, 32, 32), id="bundled"),
    pytest.param((1, 1, 1, 1, 1), id="ones"),
    pytest.param((2, 2, 129, 63, 40), id="odd"),
    pytest.param((1, 2, 65, 256, 80), id="longest"),
    pytest.param((1, 1, 17, 5, 3), id="narrow"),
]


@pytest.fixture(params=ALL)
def instruction_set(request):
    with computing_on(request.param) as name:
        yield name


def inputs(batch, heads, pixels, tokens, width, dtype):
    torch.manual_seed(0)
    query = torch.randn(batch, pixels, heads, width).transpose(1, 2).to(dtype)  # as a layer hands it over
    key, value = (torch.randn(batch, heads, tokens, width).to(dtype) for _ in range(2))
    indices = torch.randint(0, tokens, (batch, 5))
    indices[0, 1] = -1
    return [x.requires_grad_() for x in (query, key, value)], indices


def run(tensors, indices, implementation):
    """Outputs, maps and gradients for fixed random weights of both."""
    tensors = [x.detach().requires_grad_() for x in tensors]
    out, maps = implementation(*tensors, indices)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).to(x.dtype) for x in (out, maps)]
    loss = (out * weights[0]).sum().double() + (maps * weights[1]).sum().double()
    return [out.detach(), maps.detach(), *torch.autograd.grad(loss, tensors)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_error_stays_within_a_small_multiple_of_stock_torch(shape, dtype, instruction_set):
    """The rule of flash-attention's tests: twice plain PyTorch's own error forward, three times backward."""
    tensors, indices = inputs(*shape, dtype)
    exact = run([x.double() for x in tensors], indices, lambda *a: attention_with_maps(*a, backend="reference"))
    plain = run(tensors, indices, lambda *a: attention_with_maps(*a, backend="reference"))
    ours = run(tensors, indices, lambda *a: attention_with_maps(*a, backend="cpp"))
    for index, (want, stock, got) in enumerate(zip(exact, plain, ours, strict=True)):
        factor = 2 if index < 2 else 3
        step = torch.finfo(torch.float32 if index == 1 else dtype).eps
        budget = factor * ((stock.double() - want).abs().max() + step * want.abs().max())
        assert torch.isfinite(got).all()
        assert (got.double() - want).abs().max() <= budget
        assert got.shape == want.shape


def test_same_answer_every_time():
    tensors, indices = inputs(2, 8, 256, 77, 40, torch.float32)
    first = run(tensors, indices, lambda *a: attention_with_maps(*a, backend="cpp"))
    for _ in range(10):
        again = run(tensors, indices, lambda *a: attention_with_maps(*a, backend="cpp"))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_threads_do_not_change_the_answer():
    tensors, indices = inputs(3, 5, 100, 77, 40, torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(run(tensors, indices, lambda *a: attention_with_maps(*a, backend="cpp")))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_work_is_spread_over_torchs_threads():
    """As many ranges as ``torch.set_num_threads`` says; together they cover the work once."""
    from sdk.kernels.impl import cpp

    task_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    loop_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, task_type, ctypes.c_void_p)
    runner = cpp.torch_threads()
    threads = torch.get_num_threads()
    try:
        for count, expected in ((1, [(0, 5)]), (2, [(0, 3), (3, 5)]), (3, [(0, 2), (2, 4), (4, 5)])):
            torch.set_num_threads(count)
            ranges = []
            task = task_type(lambda _, first, last, kept=ranges: kept.append((first, last)))
            loop_type(runner.parallel_for)(runner.context, 5, task, None)
            assert sorted(ranges) == expected
    finally:
        torch.set_num_threads(threads)


def test_any_strides_will_do():
    tensors, indices = inputs(2, 2, 36, 9, 8, torch.float32)
    scattered = [x.detach().transpose(2, 3).contiguous().transpose(2, 3) for x in tensors]
    assert scattered[0].stride(3) != 1
    want = attention_with_maps(*[x.detach() for x in tensors], indices, backend="cpp")
    got = attention_with_maps(*scattered, indices.T.contiguous().T, backend="cpp")
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


def test_nothing_of_the_size_of_the_probabilities_is_kept():
    batch, heads, pixels, tokens = 2, 8, 256, 77
    tensors, indices = inputs(batch, heads, pixels, tokens, 40, torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        attention_with_maps(*tensors, indices, backend="cpp")
    assert kept
    assert all(shape.numel() < batch * heads * pixels * tokens for shape in kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_pass_opcheck(dtype):
    tensors, indices = inputs(2, 2, 16, 7, 8, dtype)
    opcheck(torch.ops.personalizer.cpp_attention.default, (*tensors, indices, 0.3))
    opcheck(torch.ops.personalizer.cpp_attention.default, (*(x.detach() for x in tensors), indices, 0.3))
    grads = torch.randn(2, 2, 16, 8, dtype=dtype), torch.randn(2, 5, 16)
    plain = [x.detach() for x in tensors]
    opcheck(torch.ops.personalizer.cpp_attention_backward.default, (*grads, *plain, indices, 0.3))
    maps = torch.rand(2, 4, 6, 6, requires_grad=True)
    opcheck(torch.ops.personalizer.cpp_calibration.default, (maps, True, 0.7, 1, 1.0, 1.0, 1.0))


def test_compiles_without_a_graph_break():
    tensors, indices = inputs(2, 2, 16, 9, 8, torch.float32)
    indices = torch.tensor([[1, 2, 4, 5], [-1, -1, -1, -1]])

    def step(query, key, value):
        outs, loss = calibrated_attention([query], [key], [value], indices, backend="cpp", reduction="mean", sigma=0.5)
        return outs[0].sum() + loss

    want = torch.autograd.grad(step(*tensors), tensors)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(*tensors), tensors)
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_runs_attention_low_and_the_loss_high():
    tensors, indices = inputs(1, 2, 16, 9, 8, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out, maps = attention_with_maps(*tensors, indices, backend="cpp")
        loss = calibration_loss(maps[:, :4].unflatten(-1, (4, 4)), backend="cpp")
    assert out.dtype == torch.bfloat16
    assert maps.dtype == loss.dtype == torch.float32
    loss.sum().backward()
    assert tensors[0].grad.dtype == torch.float32
    assert torch.isfinite(tensors[0].grad).all()


@pytest.mark.parametrize("concepts", [1, 2, 3])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"normalize": False}, {"sigma": 0.0}, {"suppress": 0}, {"suppress": 3}, {"smooth": 0.1, "bind": 0.3}],
)
def test_loss_and_gradient_equal_the_reference(concepts, arguments):
    torch.manual_seed(0)
    maps = torch.rand(3, 2 * concepts, 7, 9)
    maps[1] = 0
    maps[2, 0, :2] = maps[2, 0].max()  # ties
    results = []
    for backend, precise in (("cpp", maps), ("reference", maps.double())):
        precise = precise.clone().requires_grad_()
        loss = calibration_loss(precise, backend=backend, **arguments)
        (grad,) = torch.autograd.grad((loss * torch.tensor([1.0, 2.0, 3.0])).sum(), precise)
        results.append((loss.detach().double(), grad.double()))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-8)
    assert results[0][0][1] == 0
    assert results[0][1][1].abs().max() == 0


def test_wrong_token_is_refused():
    tensors, indices = inputs(1, 1, 4, 4, 4, torch.float32)
    with pytest.raises(ValueError, match="token_indices"):
        attention_with_maps(*tensors, torch.tensor([[4]]), backend="cpp")
    with pytest.raises(ValueError, match="float32 or bfloat16"):
        attention_with_maps(*(x.double() for x in tensors), indices, backend="cpp")

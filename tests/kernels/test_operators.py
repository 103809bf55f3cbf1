"""The operators called directly: what they do not take is an error in words; empty tensors give empty results."""

from __future__ import annotations

import math
from dataclasses import astuple

import pytest
import torch

from sdk.kernels import (
    CalibrationOptions,
    attention_with_maps,
    available_backends,
    calibrated_attention,
    calibration_loss,
    columns_loss,
)
from tests.kernels.devices import device_of

READY = [name for name, status in available_backends().items() if status == "ready"]
DEVICE = {name: device_of(name) for name in READY}
COMPILED = [name for name in ("cpp", "triton") if name in READY]
REFUSALS = (TypeError, ValueError, RuntimeError)  # RuntimeError is torch's own: no kernel for such tensors
OPTIONS = astuple(CalibrationOptions())


def operator(backend, name):
    if backend == "triton":
        from sdk.kernels.impl import triton_ops  # noqa: F401  defines the operators
    return getattr(torch.ops.personalizer, f"{backend}_{name}")


def attention_arguments(backend, device):
    torch.manual_seed(0)
    shapes = {"query": (2, 3, 6, 8), "key": (2, 3, 5, 8), "value": (2, 3, 5, 8)}
    arguments = {name: torch.randn(shape, device=device) for name, shape in shapes.items()}
    arguments |= {"tokens": torch.tensor([[0, 4], [-1, 2]], device=device), "scale": 0.3}
    return arguments | ({"first_key": 0} if backend == "triton" else {})


def backward_arguments(backend, device):
    pull = {"grad_maps": (2, 2, 6)} if backend == "cpp" else {"grad_columns": (2, 3, 2, 6)}
    grads = {name: torch.randn(shape, device=device) for name, shape in ({"grad_out": (2, 3, 6, 8)} | pull).items()}
    return grads | attention_arguments(backend, device)


def wrong_tensors(tensor):
    """Tensors like this one, each with one thing wrong."""
    shape = tensor.shape
    for dim in range(tensor.ndim):
        yield f"shorter in dimension {dim}", tensor.narrow(dim, 0, shape[dim] - 1)
        yield f"longer in dimension {dim}", torch.cat([tensor, tensor.narrow(dim, 0, 1)], dim)
    yield "a dimension less", tensor[0]
    yield "a dimension more", tensor[None]
    yield "no dimension", tensor.flatten()[0]
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.bool, torch.complex64):
        if dtype != tensor.dtype:
            yield f"of {dtype}", tensor.to(dtype)
    if tensor.dtype != torch.int64:
        yield "of integers", tensor.long()
    yield "on no device", tensor.to("meta")
    yield "sparse", tensor.to_sparse()


def assert_refused(what, call, *arguments, **named):
    """Pytest shows ``what`` where it was taken."""
    with pytest.raises(REFUSALS, match=r"\w"):
        call(*arguments, **named)


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("name", ["attention", "attention_backward"])
def test_attention_refuses_any_tensor_that_does_not_fit(backend, name):
    call = operator(backend, name)
    arguments = (attention_arguments if name == "attention" else backward_arguments)(backend, DEVICE[backend])
    assert len(call(**arguments)) > 1
    tried = 0
    for argument, given in arguments.items():
        for what, wrong in wrong_tensors(given) if isinstance(given, torch.Tensor) else ():
            # Fewer or more queries, keys or tokens: a good call, unless another tensor has as many.
            alone = name == "attention" and what.endswith(f"dimension {1 if argument == 'tokens' else 2}")
            if alone and argument in ("query", "tokens"):
                continue
            tried += 1
            assert_refused(f"{argument} {what}", call, **(arguments | {argument: wrong}))
    assert tried > 60


@pytest.mark.parametrize("backend", COMPILED)
def test_attention_refuses_values_out_of_range(backend):
    call, arguments = operator(backend, "attention"), attention_arguments(backend, DEVICE[backend])
    for scale in (0.0, -1.0, math.nan, math.inf, -math.inf, 1e300, 1e-300):
        with pytest.raises(ValueError, match="scale must be above zero and finite"):
            call(**(arguments | {"scale": scale}))
    if DEVICE[backend] == "cpu":
        for token in (5, -2, 2**62, -(2**63)):
            with pytest.raises(ValueError, match="token"):
                call(**(arguments | {"tokens": torch.tensor([[0, 4], [token, 2]])}))


@pytest.mark.parametrize("backend", COMPILED)
def test_public_functions_refuse_the_same(backend):
    arguments = attention_arguments(backend, DEVICE[backend])
    tensors = [arguments[name] for name in ("query", "key", "value", "tokens")]
    for scale, kind in ((0.0, ValueError), (math.nan, ValueError), (-0.1, ValueError), ("1", TypeError)):
        with pytest.raises(kind, match="scale must be"):
            attention_with_maps(*tensors, scale=scale, backend=backend)
    empty = (
        [x[..., :0] for x in tensors[:3]],
        [x[:, :0] for x in tensors[:3]],
        [tensors[0], *(x[:, :, :0] for x in tensors[1:3])],
    )
    for wrong in empty:
        with pytest.raises(ValueError, match="at least one head, key and column"):
            attention_with_maps(*wrong, tensors[3].clamp(max=-1), backend=backend)
    with pytest.raises(ValueError, match="dense"):
        attention_with_maps(tensors[0].to_sparse(), *tensors[1:], backend=backend)


@pytest.mark.parametrize("backend", COMPILED)
def test_the_loss_refuses_any_tensor_and_option_that_makes_no_sense(backend):
    call, device = operator(backend, "calibration"), DEVICE[backend]
    maps = torch.rand(2, 4, 3, 5, device=device)
    columns = torch.rand(2, 3, 4, 15, device=device)
    good = (maps,) if backend == "cpp" else ([columns, columns], 3, 5)
    assert call(*good, *OPTIONS)[0].shape == (2,)
    wrong = {
        "odd": maps[:, :3],
        "no maps": maps[:, :0],
        "3-d": maps[0],
        "a line": maps[:, :, :1],
        "no cell": maps[..., :0],
    }
    wrong |= {str(t): maps.to(t) for t in (torch.float64, torch.bfloat16, torch.int32)} | {
        "meta": maps[:, :3].to("meta")
    }
    calls = {name: (tensor,) for name, tensor in (wrong | {"sparse": maps.to_sparse()}).items()}
    if backend == "triton":
        calls = {
            "no layer": ([], 3, 5), "other cells": ([columns], 3, 4), "negative": ([columns], -3, -5),
            "odd": ([columns[:, :, :3]], 3, 5), "no heads": ([columns[:, :0]], 3, 5), "3-d": ([columns[0]], 3, 5),
            "other batch": ([columns, columns[:1]], 3, 5), "other heads": ([columns, columns[:, :1]], 3, 5),
            "other type": ([columns, columns.double()], 3, 5), "double": ([columns.double()], 3, 5),
            "sparse": ([columns.to_sparse()], 3, 5), "a line": ([columns], 1, 15), "integers": ([columns.int()], 3, 5),
        }  # fmt: skip
    for what, arguments in calls.items():
        assert_refused(what, call, *arguments, *OPTIONS)
    for place, values in {
        1: (-1.0, math.nan, math.inf),
        2: (-1, 17, 10**9, 2**32),
        3: (-1.0, math.nan),
        4: (math.inf,),
    }.items():
        for value in values:
            options = [*OPTIONS[:place], value, *OPTIONS[place + 1 :]]
            with pytest.raises(ValueError, match="must"):
                call(*good, *options)


@pytest.mark.parametrize(
    ("changes", "kind", "match"),
    [
        ({"suppress": 10**9}, ValueError, "suppress must be at most 16, got 1000000000"),
        ({"suppress": 1.0}, TypeError, "suppress must be a whole number, got 1.0"),
        ({"suppress": True}, TypeError, "suppress must be a whole number, got True"),
        ({"normalize": 1}, TypeError, "normalize must be True or False, got 1"),
        ({"normalize": "no"}, TypeError, "normalize must be True or False, got 'no'"),
        ({"sigma": "1"}, TypeError, "sigma must be a number, got '1'"),
        ({"sigma": None}, TypeError, "sigma must be a number, got None"),
        ({"bind": 1j}, TypeError, "bind must be a number"),
        ({"sigma": math.inf}, ValueError, "sigma must be finite"),
        ({"smooth": math.nan}, ValueError, "smooth must be finite"),
        ({"separate": -math.inf}, ValueError, "separate must be finite"),
        ({"bind": 10**400}, ValueError, "bind must be finite"),
        ({"smooth": -0.1}, ValueError, "smooth must not be negative"),
    ],
)
def test_options_are_numbers_within_bounds(changes, kind, match):
    with pytest.raises(kind, match=match):
        CalibrationOptions(**changes)
    with pytest.raises(kind, match=match):
        calibration_loss(torch.rand(1, 2, 4, 4), **changes)


@pytest.mark.parametrize("backend", READY)
@pytest.mark.parametrize("empty", ["batch", "queries", "tokens", "all"])
def test_nothing_to_compute_gives_nothing(backend, empty):
    device = DEVICE[backend]
    batch, queries, tracked = (
        0 if empty in (name, "all") else size for name, size in (("batch", 2), ("queries", 4), ("tokens", 3))
    )
    sizes = (queries, 5, 5)
    leaves = [torch.randn(batch, 2, n, 8, device=device, requires_grad=True) for n in sizes]
    indices = torch.zeros(batch, tracked, dtype=torch.int64, device=device)
    out, maps = attention_with_maps(*leaves, indices, backend=backend)
    assert out.shape == leaves[0].shape
    assert maps.shape == (batch, tracked, queries)
    grads = torch.autograd.grad((out.sum() + maps.sum()), leaves)
    for grad, leaf in zip(grads, leaves, strict=True):
        assert grad.shape == leaf.shape
        assert grad.isfinite().all()
        if empty == "queries":  # no query pulls on a key
            assert (grad == 0).all()


@pytest.mark.parametrize("backend", READY)
def test_no_rows_have_no_losses(backend):
    maps = torch.rand(0, 4, 5, 5, device=DEVICE[backend], requires_grad=True)
    loss = calibration_loss(maps, backend=backend)
    assert loss.shape == (0,)
    assert torch.autograd.grad(loss.sum(), maps)[0].shape == maps.shape


@pytest.mark.skipif("cpp" not in READY, reason="no compiled CPU library")
def test_gradients_without_queries_are_zero_in_memory_that_was_used_before():
    """The operator itself: what it returns is nobody's old memory."""
    key = torch.randn(2, 3, 50, 40)
    tokens = torch.zeros(2, 1, dtype=torch.int64)
    for dtype in (torch.float32, torch.bfloat16):
        for _ in range(20):
            torch.full((2, 50, 3, 40), math.nan, dtype=dtype)  # freed at once, and often handed out again
            low = key.to(dtype)
            nothing = low[:, :, :0]
            grads = torch.ops.personalizer.cpp_attention_backward(
                nothing, torch.zeros(2, 1, 0), nothing, low, low, tokens, 0.1
            )
            assert all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("backend", READY)
def test_layers_must_agree(backend):
    device = DEVICE[backend]
    columns = [torch.rand(2, 1, 4, 9, device=device), torch.rand(3, 1, 4, 9, device=device)]
    with pytest.raises(ValueError, match="with the same B and S"):
        columns_loss(columns, 3, 3, CalibrationOptions(), backend=backend)
    with pytest.raises(TypeError, match="one floating-point type"):
        columns_loss([columns[0], columns[0].double()], 3, 3, CalibrationOptions(), backend=backend)
    with pytest.raises(TypeError, match="one floating-point type"):
        calibration_loss(torch.ones(1, 2, 3, 3, dtype=torch.int64, device=device), backend=backend)
    with pytest.raises(TypeError, match="columns must be a tensor, got list"):
        columns_loss([[1.0]], 3, 3, CalibrationOptions(), backend=backend)
    with pytest.raises(ValueError, match="one tensor per layer"):
        calibrated_attention([], [], [], torch.tensor([[0, 1]], device=device), backend=backend)


@pytest.mark.parametrize("backend", READY)
def test_rows_that_share_their_memory_are_read_as_they_are(backend):
    """Expanded, sliding and transposed tensors, for inputs and gradients alike."""
    device = DEVICE[backend]
    torch.manual_seed(0)
    line = torch.randn(200, device=device)
    views = [
        (line.as_strided((2, 2, 6, 8), (3, 5, 1, 1)), line.as_strided((2, 2, 7, 8), (0, 1, 8, 1))),
        (line[:96].view(1, 2, 6, 8).expand(2, 2, 6, 8), line.as_strided((2, 2, 7, 8), (1, 0, 0, 2))),
        (line.as_strided((2, 2, 6, 8), (40, 20, 1, 7)), line[:1].view(1, 1, 1, 1).expand(2, 2, 7, 8)),
    ]
    tokens = torch.tensor([[1, -1, 6]], device=device).expand(2, 3)
    for query, key in views:
        results = []
        for convert in (lambda x: x, torch.clone):
            leaves = [convert(x).detach().requires_grad_() for x in (query, key, key)]
            out, maps = attention_with_maps(*leaves, tokens, backend=backend)
            grads = [convert(x) for x in (query, line.as_strided((2, 3, 6), (0, 2, 3)))]
            results.append([out, maps, *torch.autograd.grad((out, maps), leaves, grads)])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)

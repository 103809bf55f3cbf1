"""NaN and infinities: where the reference has them, every backend and every instruction set has the same ones."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from sdk.bindings import capi
from sdk.kernels import (
    CalibrationOptions,
    attention_with_columns,
    attention_with_maps,
    available_backends,
    calibration_loss,
    columns_loss,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # Triton's interpreter is numpy
READY = [name for name, status in available_backends().items() if status == "ready"]
HOSTILE = (math.nan, math.inf, -math.inf)
SETS = ("portable", "avx2", "avx512", "avx512_bf16", "amx", "tiles")
WAYS = [(name, None) for name in READY if name not in ("reference", "cpp")]
WAYS += [("cpp", name) for name in SETS if "cpp" in READY]
NAMES = ("out", "maps", "grad_query", "grad_key", "grad_value")
ON_GPU = torch.cuda.is_available()


@pytest.fixture(params=WAYS, ids=lambda way: way[1] or way[0])
def way(request):
    """A backend, and for the compiled library an instruction set."""
    backend, name = request.param
    if backend == "triton" and ON_GPU:
        pytest.skip("tensors of this test are on the CPU")
    if name is not None:
        try:
            capi.use_instruction_set(name)
        except ValueError:
            pytest.skip(f"this processor has no {name}")
    yield backend
    if name is not None:
        capi.use_instruction_set(None)


def kinds(tensor):
    """0 for a number, 1 for NaN, 2 and 3 for the infinities."""
    return tensor.isnan() + 2 * (tensor == math.inf) + 3 * (tensor == -math.inf)


def drawn(generator, low, high):
    return int(torch.randint(low, high, (1,), generator=generator))


def plant(tensor, generator, count):
    flat = tensor.view(-1)
    for _ in range(count if len(flat) else 0):
        flat[drawn(generator, 0, len(flat))] = HOSTILE[drawn(generator, 0, 3)]


def attention_case(seed, dtype, largest):
    """Random shapes and numbers with NaN and infinities among query, key, value and the gradients of out and maps."""
    generator = torch.Generator().manual_seed(seed)
    pixels, tokens, width = (drawn(generator, 1, top) for top in largest)
    batch, heads, tracked = drawn(generator, 1, 3), drawn(generator, 1, 4), drawn(generator, 0, 5)
    rows = (pixels, tokens, tokens, pixels)
    query, key, value, grad_out = (torch.randn(batch, heads, n, width, generator=generator).to(dtype) for n in rows)
    indices = torch.randint(-1, tokens, (batch, tracked), generator=generator)
    grad_maps = torch.randn(batch, tracked, pixels, generator=generator)
    where = drawn(generator, 0, 7)
    for place, tensor in enumerate((query, key, value, grad_out, grad_maps)):
        if where == place or (where > 4 and drawn(generator, 0, 3) == 0):
            plant(tensor, generator, drawn(generator, 1, 4))
    if where == 6:  # every logit is -infinity
        key[..., 0], query = -math.inf, query.abs() + 1
    return [query, key, value], indices, grad_out, grad_maps


def attended(case, backend, dtype=None, scale=None, detach_first=False):
    tensors, indices, grad_out, grad_maps = case
    leaves = [x.to(dtype or x.dtype).clone().requires_grad_() for x in tensors]
    out, columns = attention_with_columns(*leaves, indices, scale=scale, detach_first=detach_first, backend=backend)
    maps = columns.mean(1)
    grads = torch.autograd.grad((out, maps), leaves, (grad_out.to(out.dtype), grad_maps.to(maps.dtype)))
    return [out.detach(), maps.detach(), *grads]


def assert_same_kinds(got, want, names, what):
    for name, ours, exact in zip(names, got, want, strict=True):
        assert torch.equal(kinds(ours), kinds(exact)), f"{name} of {what}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_attention_has_them_where_the_reference_has(way, dtype):
    if dtype == {"cpp": torch.float16, "triton": torch.bfloat16}.get(way):
        pytest.skip(f"{way} does not take {dtype} here")
    seeds, largest = (range(8), (20, 20, 40)) if way == "triton" else (range(60), (150, 100, 70))
    seen = 0
    for seed in seeds:
        case = attention_case(seed, dtype, largest)
        detach = {"detach_first": seed % 3 == 0}
        want, exact = attended(case, "reference", **detach), attended(case, "reference", torch.float64, **detach)
        got = attended(case, way, **detach)
        assert_same_kinds(got, want, NAMES, f"case {seed}")
        assert_same_kinds(got, exact, NAMES, f"case {seed} in double precision")
        seen += sum(int((kinds(x) > 0).any()) for x in want)
    assert seen > len(seeds)  # what is compared is there


def test_one_nan_in_a_key_is_seen_by_every_query_of_its_head(way):
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 2, 5, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    key[0, 1, 3, 2] = math.nan
    out, maps = attention_with_maps(query, key, value, torch.tensor([[0, 3]]), backend=way)
    assert out[0, 1].isnan().all()
    assert not out[0, 0].isnan().any()
    assert maps.isnan().all()  # the mean over heads


@pytest.mark.parametrize("row", [[math.nan], [math.inf], [-math.inf] * 3, [math.inf, -math.inf], [math.nan] * 3])
def test_rows_without_probabilities(way, row):
    """Logits are the keys themselves: NaN, +infinity, or nothing but -infinity leave only NaN."""
    key = torch.zeros(1, 1, 3, 1)
    key[0, 0, : len(row), 0] = torch.tensor(row)
    query, value = torch.tensor([1.0, 2.0]).view(1, 1, 2, 1), torch.ones(1, 1, 3, 1)
    out, maps = attention_with_maps(query, key, value, torch.tensor([[0, 1, 2]]), scale=1.0, backend=way)
    assert out.isnan().all()
    assert maps.isnan().all()


def test_a_single_logit_of_minus_infinity_is_a_probability_of_zero(way):
    query, value = torch.ones(1, 1, 1, 1), torch.tensor([5.0, 1.0, 3.0]).view(1, 1, 3, 1)
    key = torch.tensor([-math.inf, 0.0, 0.0]).view(1, 1, 3, 1)
    out, maps = attention_with_maps(query, key, value, torch.tensor([[0, 1]]), scale=1.0, backend=way)
    assert maps.flatten().tolist() == [0.0, 0.5]
    assert out.item() == 2.0
    value[0, 0, 0] = math.inf  # and zero times infinity is none
    assert attention_with_maps(query, key, value, torch.tensor([[0, 1]]), scale=1.0, backend=way)[0].isnan().all()


@pytest.mark.parametrize("gap", [90.0, 200.0, 1e4, 1e30])
def test_far_logits_give_nothing_at_all(way, gap):
    """Not the smallest normal number either: an infinite value would come through."""
    if gap == 90.0 and way != "cpp":
        pytest.skip("others have probabilities that are no normal numbers")
    query, key = torch.ones(1, 1, 1, 1), torch.tensor([0.0, gap]).view(1, 1, 2, 1)
    maps = attention_with_maps(query, key, key, torch.tensor([[0, 1]]), scale=1.0, backend=way)[1]
    assert maps.flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("scale", [1e-30, 1e-44, 1e-3, 30.0, 1e30, 3e38])
def test_any_scale(way, scale):
    """Padding stays out of small ones; logits that overflow only with the factor are infinite."""
    torch.manual_seed(0)
    # From 1 on, powers of two: logits of either sign, no product of which is near a threshold.
    query, key = (2.0 ** torch.randint(0, 4, (1, 1, n, 1)) for n in (9, 7))
    key[0, 0, ::2] *= -1
    tensors, indices = [query, key, torch.randn(1, 1, 7, 1)], torch.tensor([[0, 3, 6]])
    case = (tensors, indices, torch.randn(1, 1, 9, 1), torch.randn(1, 3, 9))
    want, got = attended(case, "reference", scale=scale)[:2], attended(case, way, scale=scale)[:2]
    for ours, exact in zip(got, want, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-6, equal_nan=True)
    assert not want[0].isnan().all() or scale > 1e37


def test_the_map_of_no_token_is_zero_and_passes_nothing_back(way):
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 1, 4, 8), torch.randn(1, 1, 5, 8), torch.randn(1, 1, 5, 8)
    poisoned = key.clone()
    poisoned[0, 0, 0, 0] = math.nan
    indices = torch.tensor([[-1, 2]])
    assert attention_with_maps(query, poisoned, value, indices, backend=way)[1][0, 0].abs().max() == 0
    grad_maps = torch.randn(1, 2, 4)
    finite = attended(([query, key, value], indices, torch.randn(1, 1, 4, 8), grad_maps), way)
    assert all(x.isfinite().all() for x in finite)
    grad_maps[0, 0] = math.nan
    grads = attended(([query, key, value], indices, torch.randn(1, 1, 4, 8), grad_maps), way)[2:]
    assert all(x.isfinite().all() for x in grads)


def loss_case(seed):
    generator = torch.Generator().manual_seed(seed)
    batch, concepts, layers, heads = (drawn(generator, 1, top) for top in (4, 4, 3, 3))
    height, width = drawn(generator, 2, 12), drawn(generator, 2, 12)
    shape = (batch, heads, 2 * concepts, height * width)
    columns = [torch.rand(shape, generator=generator) for _ in range(layers)]
    if drawn(generator, 0, 3) == 0:  # a row without concepts
        empty = drawn(generator, 0, batch)
        for layer in columns:
            layer[empty] = 0
    plant(columns[drawn(generator, 0, layers)], generator, drawn(generator, 0, 4))
    grad_loss = torch.randn(batch, generator=generator)
    if drawn(generator, 0, 3) == 0:
        plant(grad_loss, generator, 1)
    options = CalibrationOptions(
        normalize=bool(drawn(generator, 0, 2)),
        sigma=(0.0, 0.7, 1e-200, 1e160)[drawn(generator, 0, 4)],
        suppress=drawn(generator, 0, 4),
        smooth=float(drawn(generator, 0, 2)),
        bind=float(drawn(generator, 1, 3)),
        separate=float(drawn(generator, 0, 2)),
    )
    return columns, height, width, options, grad_loss


@pytest.mark.parametrize("backend", [name for name in READY if name not in ("reference", "augmented_v")])
def test_losses_and_their_gradients_too(backend):
    if backend == "triton" and ON_GPU:
        pytest.skip("tensors of this test are on the CPU")
    for seed in range(40 if backend == "triton" else 300):
        columns, height, width, options, grad_loss = loss_case(seed)
        results = []
        for name, dtype in ((backend, torch.float32), ("reference", torch.float32), ("reference", torch.float64)):
            leaves = [x.to(dtype).requires_grad_() for x in columns]
            loss = columns_loss(leaves, height, width, options, backend=name)
            results.append([loss.detach(), *torch.autograd.grad(loss, leaves, grad_loss.to(dtype))])
        for exact in results[1:]:
            assert_same_kinds(results[0], exact, ["loss", *["grad"] * len(columns)], f"case {seed}: {options}")


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("backend", READY)
def test_a_loss_does_not_hide_a_nan(backend, value):
    if backend == "triton" and ON_GPU:
        pytest.skip("tensors of this test are on the CPU")
    for place, normalize in itertools.product(range(4), (True, False)):
        maps = torch.rand(2, 4, 5, 5)
        maps[1, place, 2, 3] = value
        loss = calibration_loss(maps, normalize=normalize, backend=backend)
        assert loss.isnan().tolist() == [False, True]


@pytest.mark.parametrize("backend", READY)
def test_rows_without_concepts_pull_on_nothing_whatever_the_options(backend):
    if backend == "triton" and ON_GPU:
        pytest.skip("tensors of this test are on the CPU")
    maps = torch.rand(2, 4, 5, 5)
    maps[0] = 0
    maps.requires_grad_()
    for options, grad_loss in ({"smooth": 0.0}, 1.0), ({"smooth": 0.0, "normalize": False}, 1.0), ({}, math.nan):
        loss = calibration_loss(maps, backend=backend, **options)
        (grad,) = torch.autograd.grad(loss, maps, torch.tensor([grad_loss, 1.0]))
        assert loss[0] == 0
        assert grad[0].abs().max() == 0
        assert grad[1].isfinite().all()

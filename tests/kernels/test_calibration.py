"""The calibration loss against published test vectors, finite differences and its own definition."""

from __future__ import annotations

import math

import pytest
import torch

from sdk.kernels import attention_with_maps, calibrated_attention, calibration_loss
from sdk.kernels.impl import registry

# Values of an independent implementation of the released code, float64: loss, and L1 norm and maximum of the
# gradient of 0.01 x loss with respect to the logits.
GOLDEN = {
    "one target": ([1], [[4, 5, 7, 8]], 1.6407282777931238, 0.010162084041175617, 4.504911716928816e-05),
    "two targets": (
        [0, 1],
        [[4, 5, 7, 8], [7, 8, 10, 11]],
        1.586041130472836,
        0.01803362540747047,
        6.761674515273244e-05,
    ),
    "three concepts": ([1], [[4, 5, 7, 8, 10, 11]], 2.275156464632041, 0.021302482492587115, 0.00011293020361335948),
}
TERMS = [0.8184090283158871, 0.7777533433090392, 0.04456589606251707]  # bind 1, bind 2, s&s of "one target"


def golden_logits(dtype=torch.float64) -> torch.Tensor:
    """Return the logits of the test vectors, ``[layers 5, B 2, H 8, N 256, T 77]``."""
    layer, batch, head, pixel, token = torch.meshgrid(
        *(torch.arange(n, dtype=dtype) for n in (5, 2, 8, 256, 77)), indexing="ij"
    )
    y, x = (pixel / 16).floor(), pixel % 16
    return 2 * torch.sin(0.37 * token + 0.21 * x + 0.5 * layer) + 1.5 * torch.cos(
        0.53 * token - 0.33 * y + 0.4 * head + 0.9 * batch
    )


def loss_of(logits: torch.Tensor, rows: list[int], positions: list[list[int]], **arguments) -> torch.Tensor:
    mean = logits.softmax(-1).mean((0, 2))  # [B, N, T]
    maps = torch.stack([mean[row][:, place].T for row, place in zip(rows, positions, strict=True)])
    return calibration_loss(maps.unflatten(-1, (16, 16)), **arguments)


@pytest.mark.parametrize("case", GOLDEN)
def test_reproduces_the_golden_vectors(case):
    rows, positions, value, grad_l1, grad_max = GOLDEN[case]
    logits = golden_logits().requires_grad_()
    loss = loss_of(logits, rows, positions, reduction="mean")
    assert loss.item() == pytest.approx(value, abs=1e-6)
    (gradient,) = torch.autograd.grad(0.01 * loss, logits)
    assert gradient.abs().sum().item() == pytest.approx(grad_l1, rel=1e-5)
    assert gradient.abs().max().item() == pytest.approx(grad_max, rel=1e-5)


def test_terms_are_switched_one_by_one():
    logits = golden_logits()
    both_binds = loss_of(logits, [1], [[4, 5, 7, 8]], separate=0.0).item()
    separate = loss_of(logits, [1], [[4, 5, 7, 8]], bind=0.0).item()
    assert both_binds == pytest.approx(TERMS[0] + TERMS[1], abs=1e-6)
    assert separate == pytest.approx(TERMS[2], abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"smooth": 0.0}, 1.6449),
        ({"sigma": 0.5}, 1.6215),
        ({"suppress": 0}, 1.5994),
        ({"normalize": False}, 2.1207),
        ({"normalize": False, "smooth": 0.0}, 1.9994),
    ],
)
def test_ablations_are_independent(arguments, value):
    assert loss_of(golden_logits(), [1], [[4, 5, 7, 8]], **arguments).item() == pytest.approx(value, abs=6e-5)


def test_bind_trains_the_modifier_only():
    maps = torch.rand(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(calibration_loss(maps).sum(), maps)
    assert gradient[0, 0].abs().max() > 0
    assert gradient[0, 1].abs().max() == 0


def test_one_concept_has_no_pair_term():
    maps = torch.rand(3, 2, 8, 8, dtype=torch.float64)
    assert torch.equal(calibration_loss(maps), calibration_loss(maps, separate=0.0))


def test_rows_without_concepts_give_exactly_nothing():
    maps = torch.rand(2, 4, 16, 16, dtype=torch.float64)
    maps[1] = 0
    maps.requires_grad_()
    loss = calibration_loss(maps)
    assert loss[1].item() == 0
    (gradient,) = torch.autograd.grad(loss.sum(), maps)
    assert gradient[1].abs().max().item() == 0
    assert gradient[0].abs().max().item() > 0


def test_gradient_matches_finite_differences():
    torch.manual_seed(0)
    maps = torch.rand(1, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    # The class maps are detached in the bind term, so only the pair term is a plain function of them.
    assert torch.autograd.gradcheck(lambda m: calibration_loss(m, bind=0.0), (maps,))
    fixed = torch.rand(1, 1, 5, 5, dtype=torch.float64)
    modifier = torch.rand(1, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: calibration_loss(torch.cat([m, fixed], 1)), (modifier,))


def test_identical_maps_bind_and_disjoint_maps_separate():
    blob = torch.zeros(1, 1, 16, 16)
    blob[..., 2:6, 2:6] = 1
    other = blob.flip(-1)
    together = calibration_loss(torch.cat([blob, blob, other, other], 1)).item()
    crossed = calibration_loss(torch.cat([blob, other, other, blob], 1)).item()
    blended = calibration_loss(torch.cat([blob, blob, blob, blob], 1)).item()
    assert together < crossed
    assert together < blended


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maps": torch.rand(2, 3, 4, 4)}, "2S"),
        ({"maps": torch.rand(2, 4, 16)}, "2S"),
        ({"maps": torch.rand(1, 2, 4, 4), "reduction": "max"}, "reduction"),
        ({"maps": torch.rand(1, 2, 4, 4), "sigma": -1.0}, "negative"),
        ({"maps": torch.rand(1, 2, 4, 4), "backend": "cuda"}, "does not exist"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        calibration_loss(**arguments)


def test_a_backend_that_is_not_ready_is_refused_with_its_reason(monkeypatch):
    monkeypatch.setitem(registry.STATUS, "triton", "no GPU here")
    with pytest.raises(ValueError, match="cannot be used here: no GPU here"):
        calibration_loss(torch.rand(1, 2, 4, 4), backend="triton")


def test_calibrated_attention_is_its_parts():
    torch.manual_seed(1)
    layers = [(torch.randn(2, 2, 64, 8), torch.randn(2, 2, 10, 8), torch.randn(2, 2, 10, 8)) for _ in range(3)]
    indices = torch.tensor([[1, 2, 4, 5], [-1, -1, -1, -1]])
    outs, loss = calibrated_attention(*zip(*layers, strict=True), indices)
    maps = torch.stack([attention_with_maps(*layer, indices)[1] for layer in layers]).mean(0)
    assert torch.allclose(loss, calibration_loss(maps.unflatten(-1, (8, 8))))
    assert loss[1] == 0
    for out, (q, k, v) in zip(outs, layers, strict=True):
        assert torch.allclose(out, (q @ k.transpose(-1, -2) / math.sqrt(8)).softmax(-1) @ v, atol=1e-5)

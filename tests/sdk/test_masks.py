"""Masks out of attention: AttenCraft's published behaviour on two synthetic scenes, and what must never happen."""

from __future__ import annotations

import pytest
import torch

from sdk.masks.segmentation import refine, resized, segment, self_attention, usable
from sdk.masks.similarity import js_divergence, overlap, ssim

# Values of attencraft's own formulas in double precision, for the scenes below (areas: concept 1, 2, background, none).
SCENES = {
    "easy": {
        "scene": (4.0, 0.02),
        "areas": {0.05: [113, 149, 762, 0], 0.1: [113, 149, 762, 0], 0.3: [113, 149, 762, 0]},
        "sums": [129.67583372357495, 171.02265856823254, 748.8967309308659],
        "at": 0.9612334239680715,
        "js": [0.006729697226866449, 0.008286694962185592, 0.0032306297880673185],
        "attention": {
            (0, 1): (0.006082340659039787, 0.028501481937343805),
            (0,): (0.004980163507466884, 0.031104985663186122),
            (1,): (0.005758662375126455, 0.03161810136929541),
        },
    },
    "hard": {
        "scene": (1.0, 0.05),
        "areas": {0.05: [113, 165, 723, 23], 0.1: [113, 160, 701, 50], 0.3: [113, 148, 565, 198]},
        "sums": [204.9964392034259, 236.37025708266427, 628.2604261554827],
        "at": 0.6259863251130553,
        "js": [0.006729697226866449, 0.009580140073071952, 0.006380513540751309],
        "attention": {
            (0, 1): (0.007563450280229904, 0.03752687746024842),
            (0,): (0.006555105383808879, 0.045006583244769374),
            (1,): (0.00798032680691163, 0.045112051726898646),
        },
    },
}


def objects(cells: torch.Tensor) -> torch.Tensor:
    """Which object is at these coordinates of the 32x32 scene."""
    y, x = torch.meshgrid(cells, cells, indexing="ij")
    where = torch.full(y.shape, 2)
    where[(y - 11) ** 2 + (x - 9) ** 2 <= 36] = 0
    where[(y - 20) ** 2 + (x - 23) ** 2 <= 49] = 1
    return where


def cross_logits() -> torch.Tensor:
    """[4 heads, 256, 77] in double precision."""
    y, x = torch.meshgrid(torch.arange(16.0).double(), torch.arange(16.0).double(), indexing="ij")
    where = objects(2 * torch.arange(16) + 0.5)
    h = torch.arange(4).double()[:, None, None]
    logits = torch.zeros(4, 16, 16, 77, dtype=torch.double)
    logits[..., 0] = 2.0 + (where == 2)
    logits[..., 4] = 3.0 * (where == 0) + 0.5 * torch.sin(0.7 * x + 0.3 * y + 0.2 * h)
    logits[..., 6] = 3.0 * (where == 1) + 0.5 * torch.cos(0.5 * x - 0.4 * y + 0.2 * h)
    return logits.flatten(1, 2)


def self_matrix(a: float, b: float) -> torch.Tensor:
    where = objects(torch.arange(32)).flatten()
    y, x = torch.meshgrid(torch.arange(32.0).double(), torch.arange(32.0).double(), indexing="ij")
    points = torch.stack([y.flatten(), x.flatten()], 1)
    distance = (points[:, None] - points[None]).square().sum(-1)
    return (a * (where[:, None] == where[None]) - b * distance).softmax(-1)


def columns(logits: torch.Tensor) -> torch.Tensor:
    """The maps of the two concepts and the start token, at the side of the self-attention."""
    maps = logits.softmax(-1).mean(0)[:, [4, 6, 0]]
    return resized(maps.T.reshape(3, 16, 16), 32)


@pytest.mark.parametrize("name", SCENES)
def test_masks_are_those_of_the_method(name):
    want = SCENES[name]
    matrix = self_matrix(*want["scene"])
    refined = refine(columns(cross_logits()), lambda v: matrix @ v)
    torch.testing.assert_close(refined.sum((1, 2)), torch.tensor(want["sums"]).double(), rtol=1e-6, atol=0)
    assert refined[1, 14, 20].item() == pytest.approx(want["at"], rel=1e-7)
    for margin, areas in want["areas"].items():
        masks = segment(refined, margin)
        found = masks.sum((1, 2)).int().tolist()
        assert [*found, 1024 - sum(found)] == areas


def test_every_step_of_the_refinement_counts():
    matrix = self_matrix(1.0, 0.05)
    maps = columns(cross_logits())

    def areas(power):
        found = segment(refine(maps, lambda v: matrix @ v, power)).sum((1, 2)).int().tolist()
        return [*found, 1024 - sum(found)]

    assert areas(0) == [89, 108, 768, 59]
    assert areas(1) == [113, 135, 763, 13]
    assert areas(8) == [151, 248, 466, 159]
    assert torch.equal(refine(maps, None), refine(maps, lambda v: matrix @ v, 0))


def test_self_attention_without_its_matrix():
    generator = torch.Generator().manual_seed(0)
    queries = [torch.randn(h, 36, 8, generator=generator) for h in (2, 3)]
    keys = [torch.randn(h, 36, 8, generator=generator) for h in (2, 3)]
    values = torch.rand(36, 3, generator=generator)
    heads = [(q @ k.transpose(1, 2) * 0.3).softmax(-1) for q, k in zip(queries, keys, strict=True)]
    matrix = torch.cat(heads).mean(0)
    torch.testing.assert_close(
        self_attention([(q, k, 0.3) for q, k in zip(queries, keys, strict=True)])(values), matrix @ values
    )


def test_masks_stay_empty_where_nothing_leads_clearly():
    level = torch.tensor([[[0.5, 0.9]], [[0.45, 0.8]], [[0.0, 0.0]]])
    assert segment(level, 0.1).sum() == 0  # a lead of exactly the margin does not count
    assert segment(level, 0.04).sum() == 2
    blank = refine(torch.ones(2, 4, 4), None)
    assert torch.isfinite(blank).all()
    assert not usable(segment(blank))


def test_unusable_masks_are_told():
    good = torch.zeros(2, 8, 8)
    good[0, :2, :2] = 1
    good[1, 4:, 4:] = 1
    assert usable(good)
    tiny = good.clone()
    tiny[0, 0, 0] = 0
    assert not usable(tiny)
    flooded = torch.ones(1, 8, 8)
    assert not usable(flooded)


@pytest.mark.parametrize("name", SCENES)
def test_divergence_and_its_gradient(name):
    want = SCENES[name]
    matrix = self_matrix(*want["scene"])
    with torch.no_grad():
        masks = segment(refine(columns(cross_logits()), lambda v: matrix @ v))
    for chosen, (value, gradient) in want["attention"].items():
        logits = cross_logits().requires_grad_()
        maps = columns(logits)
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        scaled = (maps - low) / (high - low)
        each = js_divergence(scaled, masks)
        if chosen == (0, 1):
            torch.testing.assert_close(each, torch.tensor(want["js"]).double(), rtol=1e-7, atol=0)
        loss = each[[*chosen, 2]].mean()
        loss.backward()
        assert loss.item() == pytest.approx(value, rel=1e-7)
        assert logits.grad.abs().sum().item() == pytest.approx(gradient, rel=1e-6)


def test_divergence_is_small_and_bounded():
    half = torch.zeros(32, 32, dtype=torch.double)
    half[:16] = 1
    assert js_divergence(half, half).item() == pytest.approx(0, abs=1e-12)
    assert 0.110 < js_divergence(half, 1 - half).item() <= 0.1110


def test_structural_similarity_is_strict_with_objects_and_lax_with_specks():
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")

    def disc(cy, cx, r):
        return ((y - cy) ** 2 + (x - cx) ** 2 <= r * r).double()

    assert ssim(disc(16, 16, 6), disc(16, 16, 6)).item() == pytest.approx(1)
    assert ssim(disc(16, 16, 6), disc(16, 17, 6)).item() == pytest.approx(0.78, abs=0.01)
    assert ssim(disc(16, 16, 4), disc(16, 17, 4)).item() == pytest.approx(0.84, abs=0.01)
    assert ssim(torch.zeros(32, 32).double(), disc(16, 16, 2)).item() == pytest.approx(0.839, abs=0.002)
    both = ssim(torch.stack([disc(16, 16, 6), disc(9, 9, 4)]), torch.stack([disc(16, 17, 6), disc(9, 9, 4)]))
    assert both[1] == pytest.approx(1)
    assert both.shape == (2,)


def test_overlap():
    a = torch.zeros(2, 4, 4)
    a[0, :2] = 1
    b = a.clone()
    b[0, 0] = 0
    torch.testing.assert_close(overlap(a, b), torch.tensor([0.5, 1.0]))

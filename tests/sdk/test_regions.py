"""Where the concepts are, and a concept shown alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from sdk import Personalizer
from sdk.concepts import resolve_concepts
from sdk.config import FitConfig
from sdk.methods.disendiff import DisenDiff
from sdk.miniworld.references import reference_scene
from sdk.miniworld.render import render
from sdk.regions import concept_regions, cut_out
from sdk.targets import LatentCache, TargetRows
from sdk.training import Rows

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bundled():
    return Personalizer.from_pretrained("bundled")


def two_blobs() -> torch.Tensor:
    maps = torch.zeros(2, 16, 16)
    maps[0, 4:10, 1:6] = 1.0
    maps[1, 6:12, 9:15] = 0.5
    maps[1, 4:10, 1:6] = 0.2  # leaks onto the first one
    maps[1, 0, 0] = 0.5  # noise
    return maps


def test_each_cell_goes_to_the_word_that_looks_at_it_most():
    first, second = concept_regions(two_blobs())
    want = torch.zeros(2, 16, 16, dtype=torch.bool)
    want[0, 3:11, 0:7] = True  # a margin of one cell
    want[1, 5:13, 8:16] = True
    assert (first & second).sum() == 0
    assert (first ^ want[0]).sum() <= 8  # corners
    assert (second ^ want[1]).sum() <= 8
    assert not second[0, 0]


def test_the_window_shows_one_concept_and_marks_the_other():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[16:40, 4:24] = (255, 0, 0)
    pixels[24:48, 36:60] = (0, 0, 255)
    picture, regions = Image.fromarray(pixels), concept_regions(two_blobs())
    window, others = cut_out(picture, regions, 0)
    assert window.size == others.size == (64, 64)
    red, blue = (np.asarray(window)[..., c] > 128 for c in (0, 2))
    assert red.sum() > 1.2 * (pixels[..., 0] > 0).sum()
    assert (np.asarray(others)[..., 0][blue] > 128).all()
    assert (np.asarray(others)[..., 0][red] < 128).mean() > 0.95
    whole, _ = cut_out(picture, torch.zeros(2, 16, 16, dtype=torch.bool), 0)
    assert whole is picture


def test_the_base_model_finds_the_objects_of_a_reference(bundled):
    """Windows hold their own object almost whole on most tuning scenes."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(bundled.pipe.scheduler.config)
    shares = []
    for index in range(4):
        scene = reference_scene("tune", index)
        picture, masks = render(scene)
        concepts = resolve_concepts([item.noun for item in scene.objects])
        method = DisenDiff(bundled.pipe, concepts, FitConfig(), scheduler, CPU)
        regions = method.reference_regions(LatentCache(bundled.pipe.vae, CPU).sample(0, picture, torch.zeros(1)))
        for region, mask in zip(regions, masks, strict=True):
            cells = torch.as_tensor(np.asarray(mask)).float().view(16, 4, 16, 4).mean((1, 3)) > 0.5
            shares.append((region & cells).sum().item() / cells.sum().item())
    assert sorted(shares)[1] > 0.7


def test_rows_show_concepts_alone_as_often_as_asked_for(bundled):
    picture, _ = render(reference_scene("tune", 1))
    regions = concept_regions(two_blobs())
    targets = TargetRows(
        [picture],
        LatentCache(bundled.pipe.vae, CPU),
        size=4,
        resolution=64,
        latent_shape=(bundled.pipe.unet.config.in_channels, 16),
        flip=0.5,
        scale=False,
        seed=0,
        regions=[regions],
    )
    concepts = resolve_concepts(["cat", "car"])
    for share, allowed in ((0.0, (0, 0)), (0.5, (60, 100)), (1.0, (160, 160))):
        rows = Rows(targets, None, concepts, FitConfig(alone=share), seed=0, timesteps=1000)
        batches = [rows[step] for step in range(20)]
        alone = [row for batch in batches for row in batch.names_all.tolist() if not row]
        assert allowed[0] <= len(alone) <= allowed[1]
        for batch in batches:
            for caption, whole, mask in zip(batch.captions, batch.names_all, batch.masks, strict=True):
                assert (caption.count("<new") == 2) == bool(whole)
                assert bool((mask == 1).all()) == bool(whole)
    flipped = {variant.image.tobytes() for variant in targets.variants.values()}
    assert len(flipped) > 3
    latents, _, mask = targets.draw(random.Random(0), torch.zeros(1), 0)
    assert latents.shape[1:] == (16, 16)
    assert 0 < mask.sum() < 256


def test_every_picture_is_shown_however_small_the_pool(bundled):
    pictures = [render(reference_scene("tune", index))[0] for index in range(3)]
    targets = TargetRows(
        pictures,
        LatentCache(bundled.pipe.vae, CPU),
        size=1,
        resolution=64,
        latent_shape=(bundled.pipe.unet.config.in_channels, 16),
        flip=0.0,
        scale=False,
        seed=0,
        regions=[],
    )
    rng = random.Random(0)
    for _ in range(60):
        targets.draw(rng, torch.zeros(1))
    assert {variant.image.tobytes() for variant in targets.variants.values()} == {p.tobytes() for p in pictures}

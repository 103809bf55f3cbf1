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
from sdk.data.augmentation import SHRUNK_PREFIXES
from sdk.data.batch import View
from sdk.data.reference_rows import ReferenceRows
from sdk.data.rows import Rows
from sdk.errors import InputError
from sdk.masks.concept_masks import ConceptMasks
from sdk.masks.crops import cut_out, grown
from sdk.masks.options import MaskOptions
from sdk.masks.similarity import overlap
from sdk.masks.user import read_masks
from sdk.methods.disendiff import DisenDiff
from sdk.miniworld.references import reference_scene
from sdk.miniworld.renderer import render
from sdk.model.latents import LatentCache

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


def test_masks_grow_by_a_margin_and_lose_specks():
    first, second = grown(two_blobs() > 0.3)
    want = torch.zeros(2, 16, 16, dtype=torch.bool)
    want[0, 3:11, 0:7] = True  # a margin of one cell
    want[1, 5:13, 8:16] = True
    assert (first & second).sum() == 0
    assert (first ^ want[0]).sum() <= 12  # corners
    assert (second ^ want[1]).sum() <= 12
    assert not second[0, 0]
    touching = torch.zeros(2, 16, 16)
    touching[0, :, :8] = 1
    touching[1, :, 8:] = 1
    assert torch.equal(grown(touching), touching > 0)


def test_the_window_shows_one_concept_and_marks_the_other():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[16:40, 4:24] = (255, 0, 0)
    pixels[24:48, 36:60] = (0, 0, 255)
    picture, regions = Image.fromarray(pixels), grown(two_blobs() > 0.3)
    window, others = cut_out(picture, regions, 0)
    assert window.size == others.size == (64, 64)
    red, blue = (np.asarray(window)[..., c] > 128 for c in (0, 2))
    assert red.sum() > 1.2 * (pixels[..., 0] > 0).sum()
    assert (np.asarray(others)[..., 0][blue] > 128).all()
    assert (np.asarray(others)[..., 0][red] < 128).mean() > 0.95
    whole, _ = cut_out(picture, torch.zeros(2, 16, 16, dtype=torch.bool), 0)
    assert whole is picture


def learner_on(bundled, nouns, **changes):
    return DisenDiff(bundled, resolve_concepts(nouns), FitConfig(**changes).for_method("disendiff"))


def test_the_base_model_finds_the_objects_of_a_reference(bundled):
    overlaps = []
    for index in range(4):
        scene = reference_scene("tune", index)
        picture, true = render(scene)
        cells = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(true).float(), 16) >= 0.5
        learner = learner_on(bundled, [item.noun for item in scene.objects])
        masks = learner.probe.find_masks(LatentCache(bundled.pipe.vae, CPU).mean(picture), MaskOptions())
        assert masks.shape == (3, 16, 16)
        assert masks.sum(0).max() == 1  # every cell is one concept's, background or nobody's
        overlaps += overlap(masks[:-1], cells.float()).tolist()
    assert sum(overlaps) / len(overlaps) > 0.75
    assert sorted(overlaps)[1] > 0.5


def rows_of(personalizer, pictures, masks, *, size, flip=0.0, scale=False):
    return ReferenceRows(
        pictures,
        LatentCache(personalizer.pipe.vae, CPU),
        ConceptMasks(masks, 2, 16),
        size=size,
        resolution=64,
        latent_shape=personalizer.latent_shape,
        flip=flip,
        scale=scale,
        seed=0,
    )


def test_rows_show_concepts_alone_as_often_as_asked_for(bundled):
    picture, _ = render(reference_scene("tune", 1))
    masks = torch.cat([two_blobs() > 0.3, torch.zeros(1, 16, 16)]).float()
    references = rows_of(bundled, [picture], [masks], size=4, flip=0.5)
    for share, allowed in ((0.0, (0, 0)), (0.5, (60, 100)), (1.0, (160, 160))):
        learner = learner_on(bundled, ["cat", "car"], alone=share)
        rows = Rows(references, None, learner.concepts, learner.view, learner.settings, seed=0, timesteps=1000)
        batches = [rows[step] for step in range(20)]
        alone = [named for batch in batches for named in batch.named if len(named) == 1]
        assert allowed[0] <= len(alone) <= allowed[1]
        for batch in batches:
            for caption, named, mask in zip(batch.captions, batch.named, batch.masks, strict=True):
                assert caption.count("<new") == len(named)
                assert bool((mask == 1).all()) == (len(named) == 2)
    flipped = {variant.image.tobytes() for variant, _ in references._variants.values()}
    assert len(flipped) > 3
    variant, latents = references.draw(random.Random(0), torch.zeros(1), View((0,), window=True))
    assert latents.shape[1:] == (16, 16)
    assert 0 < variant.mask.sum() < 256
    references.masks[0] = masks.flip(2)  # masks that moved make other windows
    other, _ = references.draw(random.Random(0), torch.zeros(1), View((0,), window=True))
    assert other.image.tobytes() != variant.image.tobytes()


def test_masks_move_with_the_picture(bundled):
    picture, true = render(reference_scene("tune", 1))
    masks = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(true).float(), 16).round()
    references = rows_of(bundled, [picture], [masks], size=40, flip=0.5, scale=True)
    mirrored = shrunk = 0
    for seed in range(40):
        variant, _ = references.draw(random.Random(seed), torch.zeros(1), View((0, 1), with_masks=True))
        moved = variant.concept_masks[:-1]  # the background is the last
        assert moved.shape == masks.shape
        if not variant.prefix:
            flipped = not torch.equal(moved, masks)
            assert torch.equal(moved, masks.flip(2) if flipped else masks)
            mirrored += flipped
        elif variant.prefix in SHRUNK_PREFIXES:
            assert (moved.sum((1, 2)) < masks.sum((1, 2)).clamp(min=1)).all()
            shrunk += 1
    assert mirrored
    assert shrunk


def test_masks_of_the_user_are_checked_and_cut_square():
    picture = Image.new("RGB", (96, 64))
    mask = Image.new("L", (96, 64))
    mask.paste(255, (20, 10, 40, 30))
    (found,) = read_masks([mask, mask], [picture], 2, 32)
    assert found.shape == (2, 32, 32)
    assert 0 < found[0].sum() < 200
    assert set(found.unique().tolist()) == {0.0, 1.0}
    (again,) = read_masks([mask.crop((16, 0, 80, 64))] * 2, [picture], 2, 32)
    assert torch.equal(again, found)
    with pytest.raises(InputError, match="one mask for each of the 2 concepts"):
        read_masks([mask], [picture], 2, 32)
    with pytest.raises(InputError, match="resize it"):
        read_masks([mask.resize((10, 12))] * 2, [picture], 2, 32)
    with pytest.raises(InputError, match="mask 2 shows nothing"):
        read_masks([mask, Image.new("L", (96, 64))], [picture], 2, 32)


def test_masks_come_back_at_the_pictures_size_and_may_be_handed_back(bundled):
    picture, true = render(reference_scene("tune", 1))
    wide = Image.new("RGB", (160, 128), (90, 90, 90))
    wide.paste(picture.resize((128, 128), Image.Resampling.NEAREST), (16, 0))
    nouns = [item.noun for item in reference_scene("tune", 1).objects]
    masks = bundled.find_masks(wide, nouns)
    assert [mask.size for mask in masks] == [(160, 128)] * 2
    for mask, own in zip(masks, true, strict=True):
        seen = np.asarray(mask.crop((16, 0, 144, 128)).resize((64, 64), Image.Resampling.BOX)) > 127
        assert (seen & own).sum() / (seen | own).sum() > 0.5
    (read,) = read_masks(masks, [wide], 2, 64)
    assert read.any((1, 2)).all()


def test_every_picture_is_shown_however_small_the_pool(bundled):
    pictures = [render(reference_scene("tune", index))[0] for index in range(3)]
    references = rows_of(bundled, pictures, [torch.zeros(2, 16, 16)] * 3, size=1)
    rng = random.Random(0)
    for _ in range(60):
        references.draw(rng, torch.zeros(1), View(()))
    assert {variant.image.tobytes() for variant, _ in references._variants.values()} == {p.tobytes() for p in pictures}

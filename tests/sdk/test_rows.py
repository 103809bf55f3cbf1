"""The rows of a step: which pictures, captions, masks and noises, from which random numbers."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from sdk.concepts import resolve_concepts
from sdk.config import FitConfig
from sdk.data.batch import View
from sdk.data.priors import PriorPicture
from sdk.data.reference_rows import ReferenceRows
from sdk.data.rows import PriorRows, Rows
from sdk.images.image_io import to_tensor
from sdk.masks import ConceptMasks
from sdk.methods import method_class
from sdk.model import LatentCache

CPU = torch.device("cpu")
SIDE, CELLS = 32, 16  # of the tiny model's pictures and latents


def scene(seed: int) -> Image.Image:
    """A picture of coarse random patches; no two are alike, and none is its own mirror image."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(patches).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def moments(personalizer, image):
    """Mean and deviation of the autoencoder's posterior, ``[C, h, w]``, and its scale."""
    vae = personalizer.pipe.vae
    with torch.no_grad():
        posterior = vae.encode(to_tensor(image)[None]).latent_dist
    return posterior.mean[0], posterior.std[0], vae.config.scaling_factor


def references_of(personalizer, pictures, masks=None, *, size=8, flip=0.0, scale=False, seed=0):
    masks = ConceptMasks([torch.zeros(2, CELLS, CELLS)] * len(pictures) if masks is None else masks, 2, CELLS)
    cache = LatentCache(personalizer.pipe.vae, CPU)
    return ReferenceRows(
        pictures, cache, masks, size=size, resolution=SIDE, latent_shape=(4, CELLS), flip=flip, scale=scale, seed=seed
    )


def rows_of(personalizer, pictures, *, priors=(), method="disendiff", seed=0, nouns=("cat", "dog"), **changes):
    config = FitConfig.preset("reference", method, **{"flip": 0.0, "scale_augmentation": False, **changes})
    learner = method_class(method)(personalizer, resolve_concepts(nouns), config)
    references = references_of(
        personalizer, pictures, size=config.target_pool, flip=config.flip, scale=config.scale_augmentation, seed=seed
    )
    own = [PriorPicture(image, caption) for image, caption in priors]
    prior_rows = PriorRows(own, LatentCache(personalizer.pipe.vae, CPU), config.flip) if own else None
    return Rows(references, prior_rows, learner.concepts, learner.view, config, seed, 1000)


def test_the_noise_to_predict_is_fresh_and_of_every_level(personalizer):
    """It is normal, no row's, step's or seed's is another's, and none is the noise the picture was sampled with."""
    rows = rows_of(personalizer, [scene(0)])
    mean, deviation, scale = moments(personalizer, scene(0))
    noises, posteriors, timesteps = [], [], []
    for step in range(25):
        batch = rows[step]
        noises.append(batch.noise)
        posteriors.append((batch.latents / scale - mean) / deviation)
        timesteps.append(batch.timesteps)
    others = [rows_of(personalizer, [scene(0)], seed=seed)[0].noise for seed in (1, 2)]
    drawn = torch.cat([*noises, *posteriors, *others]).flatten(1)
    assert drawn.mean().abs() < 0.02
    assert drawn.std() == pytest.approx(1, abs=0.02)
    alike = torch.corrcoef(drawn) - torch.eye(len(drawn))
    assert alike.abs().max() < 0.25
    levels = torch.cat(timesteps).float()
    assert levels.min() < 50
    assert levels.max() > 950
    assert levels.mean() == pytest.approx(500, abs=70)


def test_a_step_is_the_same_whatever_was_drawn_before(personalizer):
    priors = [(scene(5), "a cat"), (scene(6), "a dog")]
    used, fresh = (rows_of(personalizer, [scene(0), scene(1)], priors=priors, flip=0.5) for _ in range(2))
    for step in (0, 1, 2):
        used[step]
    for step in (7, 3):
        a, b = used[step], fresh[step]
        assert (a.captions, a.named) == (b.captions, b.named)
        for name in ("latents", "noise", "timesteps", "masks"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_priors_come_as_often_as_asked_for_with_their_own_captions(personalizer):
    priors = [(scene(5), "a cat in the snow"), (scene(6), "a dog in the snow")]
    for share, allowed in ((0.25, (0.15, 0.35)), (0.75, (0.65, 0.85)), (1.0, (1, 1))):
        rows = rows_of(personalizer, [scene(0)], priors=priors, target_share=share)
        seen = []
        for step in range(30):
            batch = rows[step]
            for row, named in enumerate(batch.named):
                seen.append(bool(named))
                if named:
                    assert batch.captions[row].count("<new") == 2
                    continue
                (image,) = [picture for picture, caption in priors if caption == batch.captions[row]]
                mean, deviation, scale = moments(personalizer, image)
                away = (batch.latents[row] / scale - mean) / deviation  # the noise it was sampled with
                assert away.square().mean() == pytest.approx(1, abs=0.3)
                assert batch.masks[row].min() == 1
        assert allowed[0] <= sum(seen) / len(seen) <= allowed[1]


def test_priors_are_mirrored_as_often_as_asked_for(personalizer):
    image, still = scene(5), torch.zeros(1)
    for flip, allowed in ((0.0, (0, 0)), (0.5, (10, 30)), (1.0, (40, 40))):
        rows = PriorRows([PriorPicture(image, "a cat")], LatentCache(personalizer.pipe.vae, CPU), flip)
        straight, mirrored = (moments(personalizer, each) for each in (image, ImageOps.mirror(image)))
        found = 0
        for seed in range(40):
            latents, drawn = rows.draw(random.Random(seed), still)
            assert drawn.caption == "a cat"
            is_mirrored = torch.allclose(latents, mirrored[0] * mirrored[2], atol=1e-4)
            assert is_mirrored != torch.allclose(latents, straight[0] * straight[2], atol=1e-4)
            found += is_mirrored
        assert allowed[0] <= found <= allowed[1]


def test_captions_name_the_concepts_in_another_order_as_often_as_asked_for(personalizer):
    usual, swapped = "photo of a <new1> cat and <new2> dog", "photo of a <new2> dog and <new1> cat"
    for share, allowed in ((0.0, (0, 0)), (0.5, (25, 55)), (1.0, (80, 80))):
        rows = rows_of(personalizer, [scene(0)], swap_order=share)
        captions = [caption for step in range(10) for caption in rows[step].captions]
        assert set(captions) <= {usual, swapped}
        assert allowed[0] <= captions.count(swapped) <= allowed[1]


def test_pictures_are_mirrored_as_often_as_asked_for(personalizer):
    for flip, allowed in ((0.0, (0, 0)), (0.5, (10, 30)), (1.0, (40, 40))):
        references = references_of(personalizer, [scene(0)], size=40, flip=flip)
        mirrored = ImageOps.mirror(scene(0)).tobytes()
        for seed in range(400):
            references.draw(random.Random(seed), torch.zeros(1), View(()))
        pictures = [variant.image.tobytes() for variant, _ in references._variants.values()]
        assert set(pictures) <= {scene(0).tobytes(), mirrored}
        assert len(pictures) == 40
        assert allowed[0] <= pictures.count(mirrored) <= allowed[1]


def test_captions_say_what_the_scale_of_a_row_is(personalizer):
    rows = rows_of(personalizer, [scene(0)], scale_augmentation=True, swap_order=0.0)
    seen = set()
    for step in range(12):
        batch = rows[step]
        for caption, mask in zip(batch.captions, batch.masks, strict=True):
            prefix = caption.removesuffix("photo of a <new1> cat and <new2> dog").strip()
            seen.add(prefix)
            assert (mask.min() == 0) == (prefix in ("a far away", "very small"))
    assert seen == {"", "a far away", "very small", "zoomed in", "close up"}


def test_each_picture_of_several_is_learned_with_its_own_masks(personalizer):
    """Shown whole, and in windows around one concept."""
    pictures, masks, colours = [], [], [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    for index, colour in enumerate(colours):  # elsewhere in each
        own = torch.zeros(3, CELLS, CELLS)
        own[0, 4 * index : 4 * index + 6, 1:7] = 1
        own[1, 4 * index : 4 * index + 6, 9:15] = 1
        own[2] = 1 - own[:2].amax(0)
        masks.append(own)
        pixels = np.full((SIDE, SIDE, 3), 90, np.uint8)
        pixels[8 * index : 8 * index + 12, 18:30] = colour
        pictures.append(Image.fromarray(pixels))
    references = references_of(personalizer, pictures, masks, size=3)
    seen = set()
    for seed in range(60):
        variant, latents = references.draw(random.Random(seed), torch.zeros(1), View((0, 1), with_masks=True))
        index = [picture.tobytes() for picture in pictures].index(variant.image.tobytes())
        seen.add(index)
        assert torch.equal(variant.concept_masks, masks[index])
        mean, _, scale = moments(personalizer, pictures[index])
        torch.testing.assert_close(latents, mean * scale, atol=1e-4, rtol=1e-4)
        window, _ = references.draw(random.Random(seed), torch.zeros(1), View((1,), window=True))
        near = (np.abs(np.asarray(window.image).astype(int) - colours[index]) < 40).all(2)
        assert 0.12 < near.mean() < 0.5
    assert seen == {0, 1, 2}


def test_masks_that_come_later_are_used_from_then_on(personalizer):
    references = references_of(personalizer, [scene(0)], size=1)
    first = torch.zeros(3, CELLS, CELLS)
    first[0, 2:8, 2:8] = 1
    first[1, 9:15, 9:15] = 1
    view = View((0, 1), with_masks=True)
    for masks in (first, first.flip(1), first.flip(2)):
        references.masks[0] = masks
        variant, _ = references.draw(random.Random(0), torch.zeros(1), view)
        assert torch.equal(variant.concept_masks, masks)


def test_rows_of_priors_have_no_masks_and_the_others_have_theirs(personalizer):
    rows = rows_of(personalizer, [scene(0)], priors=[(scene(5), "a cat")], method="break_a_scene")
    masks = torch.zeros(3, CELLS, CELLS)
    masks[0, 2:8, 2:8] = 1
    masks[1, 9:15, 9:15] = 1
    masks[2] = 1 - masks[:2].amax(0)
    rows.references.masks[0] = masks
    batch = rows[0]
    assert {bool(named) for named in batch.named} == {True, False}
    for named, own in zip(batch.named, batch.concept_masks, strict=True):
        assert torch.equal(own, masks if named else torch.zeros_like(masks))


@pytest.mark.parametrize("size", [1, 4, 5])
def test_a_pool_is_rounded_up_to_whole_rounds_of_the_pictures(personalizer, size):
    references = references_of(personalizer, [scene(0), scene(1), scene(2)], size=size)
    for seed in range(100):
        references.draw(random.Random(seed), torch.zeros(1), View(()))
    assert len(references._variants) == {1: 3, 4: 6, 5: 6}[size]


@pytest.mark.parametrize("changes", [{}, {"alone": 1.0}, {"mix": 1.0}], ids=["whole", "window", "mixture"])
def test_noise_stands_around_the_named_concepts_and_fades(personalizer, changes):
    where = torch.zeros(2, CELLS, CELLS)
    where[0, 4:12, 1:6] = where[1, 4:12, 10:15] = 1

    def rows(**noise):
        config = FitConfig.preset("reference", "disendiff", steps=10, target_pool=1, flip=0.0, **noise, **changes)
        learner = method_class("disendiff")(personalizer, resolve_concepts(["cat", "dog"]), config)
        references = references_of(personalizer, [scene(0)], [where], size=1)
        return Rows(references, None, learner.concepts, learner.row, config, 0, 1000)

    clean, noisy = rows(), rows(outside_noise=0.8)
    for step, share in ((0, 0.8), (5, 0.4)):
        before, after = clean[step], noisy[step]
        assert before.captions == after.captions
        own = (after.masks > 1 - share + 1e-6).float()
        assert 0.02 < own.mean() < 0.8
        assert torch.equal(after.latents * own, before.latents * own)
        around = (1 - own) * before.masks
        torch.testing.assert_close(after.masks * around, (1 - share) * around)
        noise = ((after.latents - (1 - share) * before.latents) / share)[(around > 0).expand_as(after.latents)]
        assert noise.mean().abs() < 0.1
        assert noise.std() == pytest.approx(1, abs=0.1)
        assert torch.equal(noisy[step].latents, after.latents)


def test_where_a_named_concept_was_not_found_there_is_no_noise(personalizer):
    """It would be drowned, wherever it is."""
    where = torch.zeros(2, CELLS, CELLS)
    where[0, 4:12, 1:6] = 1
    config = FitConfig.preset("reference", "disendiff", steps=10, target_pool=1, flip=0.0, outside_noise=1.0)
    learner = method_class("disendiff")(personalizer, resolve_concepts(["cat", "dog"]), config)
    references = references_of(personalizer, [scene(0)], [where], size=1)
    rows = Rows(references, None, learner.concepts, learner.row, config, 0, 1000)
    assert {len(named) for named in rows[0].named} == {2}
    ones = [variant.own for (_, view), (variant, _) in references._variants.items() if view.noisy]
    assert ones
    assert all(own is None for own in ones)

"""Looking at a picture through the base model: which noises, which words, and until every concept is found."""

from __future__ import annotations

import pytest
import torch

from sdk import Personalizer
from sdk.concepts import resolve_concepts
from sdk.config import FitConfig
from sdk.masks import ConceptMasks, overlap
from sdk.masks.segmentation import usable
from sdk.masks.similarity import ssim
from sdk.methods import method_class
from sdk.miniworld import reference_scene, render
from sdk.model import LatentCache

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bundled():
    return Personalizer.from_pretrained("bundled", device="cpu")


def learner_on(personalizer, nouns, method="disendiff", preset="reference", **changes):
    config = FitConfig.preset(preset, method, **changes)
    return method_class(method)(personalizer, resolve_concepts(nouns), config)


def masks_found(learner, latents):
    return learner.probe.find_masks(latents, learner.settings.masks)


def masks_at(learner, latents, timesteps):
    return learner.probe.masks_at(latents, timesteps, learner.probe.noun_embeddings(), learner.settings.masks)


def seen_at(bundled, index):
    """A reference picture's nouns, its clean latents, and where its objects truly are at 16x16."""
    scene = reference_scene("tune", index)
    picture, true = render(scene)
    cells = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(true).float(), 16) >= 0.5
    latents = LatentCache(bundled.pipe.vae, CPU).mean(picture)
    return [item.noun for item in scene.objects], latents, cells.float()


@pytest.mark.parametrize("turned", [False, True])
def test_masks_are_looked_for_until_every_concept_has_one(bundled, turned):
    """With AttenCraft's options and the first noise one of the two has none, whichever is named first."""
    nouns, latents, true = seen_at(bundled, 4)
    if turned:
        nouns, true = nouns[::-1], true.flip(0)
    masks = masks_found(learner_on(bundled, nouns, "attencraft", "code"), latents)
    assert usable(masks[:-1])
    assert overlap(masks[:-1], true).min() > 0.2


def test_where_a_method_finds_no_masks_the_defaults_are_tried(bundled):
    nouns, latents, true = seen_at(bundled, 14)
    masks = masks_found(learner_on(bundled, nouns, "attencraft", "code"), latents)
    assert usable(masks[:-1])
    assert overlap(masks[:-1], true).min() > 0.3


def test_attencraft_renews_the_masks_of_each_picture_by_itself(bundled):
    """One whose old mask is of another size, one whose new ones are unlike the old, one that is renewed."""
    nouns, latents, _ = seen_at(bundled, 3)
    learner = learner_on(bundled, nouns, "attencraft", "code", attencraft={"refresh_noise": 200})
    old, _ = learner.probe.masks_at(latents, [100], learner.embeddings, learner.settings.masks)
    small, turned = old[:, ::2, ::2], old.flip(1)
    learner.pictures, learner.masks = [latents] * 4, ConceptMasks([small, turned, old, old], 2, 16)
    learner.before_step(20)
    assert learner.masks.version == 2
    assert learner.masks[0] is small
    assert learner.masks[1] is turned
    for mask in (learner.masks[2], learner.masks[3]):
        assert not torch.equal(mask, old)
        assert usable(mask[:-1])
        assert (ssim(mask[:-1].float(), old[:-1]) >= 0.8).all()
    assert not torch.equal(learner.masks[2], learner.masks[3])  # each with a noise of its own
    learner.masks = ConceptMasks([small, turned], 2, 16)
    learner.pictures = [latents] * 2
    learner.before_step(20)
    assert learner.masks.version == 0
    learner.masks, learner.pictures = ConceptMasks([old], 2, 16), [latents]
    learner.before_step(19)
    assert learner.masks.version == 0


def test_reference_maps_are_the_mean_over_three_noise_levels(personalizer):
    """Of the picture with the noise of seeds 300, 500 and 700, under the caption that names all."""
    learner = learner_on(personalizer, ["cat", "dog"])
    latents = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(9))
    given, maps = [], []

    def note(module, arguments, keywords):
        given.append(arguments)

    hook = personalizer.pipe.unet.register_forward_pre_hook(note, with_kwargs=True)
    found = learner.probe.reference_maps(latents, learner.embeddings)
    hook.remove()
    for (noisy, timestep, states), level in zip(given, (300, 500, 700), strict=True):
        assert timestep.tolist() == [level]
        alpha = personalizer.pipe.scheduler.alphas_cumprod[level]
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(level))
        torch.testing.assert_close(noisy[0], alpha.sqrt() * latents + (1 - alpha).sqrt() * noise)
        plain = personalizer.pipe.encode_prompt("photo of a cat cat and dog dog", "cpu", 1, False)[0]
        torch.testing.assert_close(states, plain, atol=1e-5, rtol=1e-5)  # the tokens start as their nouns
        maps.append(learner.probe.reference_maps(latents, learner.embeddings, timesteps=(level,)))
    torch.testing.assert_close(found, torch.stack(maps).mean(0))
    assert found.shape == (4, 16, 16)
    other = torch.roll(learner.probe.noun_embeddings(), 1, 0)  # the other's words
    assert not torch.allclose(learner.probe.reference_maps(latents, other), found)


def test_masks_at_several_noises_are_of_the_mean_map(bundled):
    nouns, latents, _ = seen_at(bundled, 3)
    learner = learner_on(bundled, nouns)
    levels = (60, 120, 200)
    masks, maps = masks_at(learner, latents, levels)
    each = torch.stack([masks_at(learner, latents, [level])[1] for level in levels])
    torch.testing.assert_close(maps, each.mean(0))
    assert masks.shape == maps.shape == (3, 16, 16)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    again, _ = masks_at(learner, latents, levels[::-1])
    assert overlap(masks, again).min() > 0.95  # the order does not matter


def test_a_noun_of_several_words_is_where_any_of_them_is(personalizer):
    """Its map is the largest of its words' and its token's; a noun of one word beside it has no more than its own."""
    learner = learner_on(personalizer, ["xyz", "dog"])
    latents = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(9))
    _, maps = masks_at(learner, latents, [100])
    columns = learner.denoiser.recorder.mean()[0]
    assert columns.shape[0] == 2 * 4 + 1
    assert learner.denoiser.recorder.token_indices.tolist() == [[4, 5, 6, 7, 9, 10, -1, -1, 0]]
    torch.testing.assert_close(maps[0], columns[:4].amax(0))
    torch.testing.assert_close(maps[1], columns[4:6].amax(0))
    torch.testing.assert_close(maps[2], columns[8])

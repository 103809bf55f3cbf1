"""How sure attention is of a mask, and what long looks tell while they last."""

from __future__ import annotations

import logging
import threading

import pytest
import torch

from sdk import Personalizer
from sdk.combine import merge
from sdk.concepts import resolve_concepts
from sdk.masks import AttentionProbe, MaskOptions
from sdk.methods.token_init import best_descriptions
from sdk.miniworld import reference_scene, render
from sdk.miniworld.scene import CLASSES
from sdk.model import Denoiser, LatentCache
from sdk.runtime import Cancelled


@pytest.fixture(scope="module")
def bundled():
    return Personalizer.from_pretrained("bundled", device="cpu")


def probe_of(personalizer, nouns):
    concepts = resolve_concepts(nouns)
    conditioner = personalizer.conditioner([c.token for c in concepts])
    return AttentionProbe(Denoiser(personalizer), conditioner, concepts)


def test_what_is_there_is_surer_than_what_is_not(bundled):
    """On scenes of two objects: asked for both, for one and something else, for two things that are not there."""
    there, absent = [], []
    for index in range(8):
        scene = reference_scene("tune", index)
        picture, _ = render(scene)
        present = [item.noun for item in scene.objects]
        missing = [noun for noun in CLASSES if noun not in present]
        for nouns in (present, [present[0], missing[0]], missing[:2], [present[1], "giraffe"]):
            for noun, mask in zip(nouns, bundled.find_masks(picture, nouns), strict=True):
                assert 0 <= mask.info["confidence"] <= 1
                (there if noun in present else absent).append(mask.info["confidence"])
    assert sum(sure >= 0.2 for sure in there) >= 0.9 * len(there)
    assert sum(sure < 0.2 for sure in absent) >= 0.6 * len(absent)
    assert sorted(there)[len(there) // 2] > 2 * sorted(absent)[len(absent) // 2]


def test_a_low_confidence_is_said_by_name(bundled, caplog):
    picture, _ = render(reference_scene("tune", 1))
    with caplog.at_level(logging.WARNING):
        masks = bundled.find_masks(picture, [reference_scene("tune", 1).objects[0].noun, "giraffe"])
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert said[0].startswith("attention does not show a 'giraffe' clearly (confidence 0.")
    assert masks[0].info["confidence"] > masks[1].info["confidence"]


def test_the_definition(personalizer, monkeypatch):
    """The share of the words' attention above chance, of what could be above it, over the mask."""
    probe = probe_of(personalizer, ["cat", "dog"])  # photo of a <1> cat and <2> dog: 8 words, two a concept
    columns = torch.full((8, 4, 4), 1 / 8)
    columns[[3, 4], :, :2] = 0.4  # the first's two words on the left
    columns[[6, 7], :, 2:] = 0.05  # the second's hardly on the right
    asked = []
    monkeypatch.setattr(probe, "look", lambda latents, tracked, timestep, rows: asked.append((tracked, timestep)))
    monkeypatch.setattr(probe.denoiser.recorder, "mean", lambda: columns[None])
    masks = torch.zeros(3, 4, 4)
    masks[0, :, :2] = masks[1, :, 2:] = 1
    sure = probe.confidence(torch.zeros(4, 16, 16), masks, MaskOptions(noise=250))
    share = 0.8 / (0.8 + 6 / 8)
    assert sure == pytest.approx([(share - 1 / 4) / (1 - 1 / 4), 0.0])
    assert asked[0][0].tolist() == list(range(1, 9))
    assert asked[0][1] == 125


def test_masks_words_and_merges_tell_of_their_steps_and_can_be_cancelled(bundled, picture):
    pipe = bundled.pipe
    latents = LatentCache(pipe.vae, torch.device("cpu"))
    probe = probe_of(bundled, ["cat", "dog"])
    clean = latents.mean(picture)
    masks = probe.find_masks(clean, MaskOptions())
    config = bundled.default_config().with_changes(steps=1, prior="none", target_share=1.0, target_pool=1)
    config = config.with_changes(initializer_candidates=())
    packs = [bundled.fit(picture, [noun], config=config) for noun in ("cat", "dog")]

    def words(**told):
        conditioner, denoiser = probe.conditioner, Denoiser(bundled)
        candidates = ["red", "blue"]
        return best_descriptions(
            denoiser, conditioner, probe.concepts, candidates, picture, masks[:-1], latents, **told
        )

    for phase, total, call in (
        ("masks", 4, lambda **told: probe.find_masks(clean, MaskOptions(), **told)),
        ("masks", 4, lambda **told: bundled.find_masks(picture, ["cat", "dog"], **told)),
        ("words", 8, words),
        ("merge", len(packs[0].key_value), lambda **told: merge(bundled, packs, **told)),
    ):
        seen = []
        call(progress=seen.append)
        assert [(e.phase, e.done, e.total) for e in seen] == [(phase, done, total) for done in range(total + 1)]
        cancel, told = threading.Event(), []

        def stop(event, cancel=cancel, told=told):
            told.append(event.done)
            if event.done == 2:
                cancel.set()

        with pytest.raises(Cancelled):
            call(progress=stop, cancel=cancel)
        assert told == [0, 1, 2]
        with pytest.raises(Cancelled):
            call(cancel=cancel)

"""Mixtures in other places than the reference's: emptied pictures of the base model, and captions that say where."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from sdk import Personalizer
from sdk.concepts import resolve_concepts, target_caption
from sdk.config import FitConfig
from sdk.data.batch import View
from sdk.data.mixing import Background
from sdk.errors import InputError
from sdk.fit.drawn.backgrounds import backgrounds_for
from sdk.miniworld import bundled_judge
from sdk.model.latents import LatentCache
from tests.sdk.test_rows import CELLS, references_of

PLACES = ("{all} in the snow", "{each} at night")


def test_captions_name_subjects_where_a_template_says():
    concepts = resolve_concepts(["cat", "dog", "car"])
    rng = random.Random(0)
    assert target_caption(concepts[:1], "", rng, 0.0, PLACES[0]) == "a <new1> cat in the snow"
    assert target_caption(concepts[:2], "", rng, 0.0, PLACES[1]) == "a <new1> cat and a <new2> dog at night"
    three = target_caption(concepts, "", rng, 1.0, PLACES[0])
    assert three.endswith(" in the snow")
    assert three != target_caption(concepts, "", rng, 0.0, PLACES[0])
    assert {f"a {c.phrase}" in three for c in concepts} == {True}


def test_the_bundled_models_places_are_emptied_and_stay_what_they_are():
    personalizer = Personalizer.from_pretrained("bundled", device="cpu")
    config = personalizer.default_config(mix=0.3, mix_prompts=PLACES)
    latents = LatentCache(personalizer.pipe.vae, personalizer.device, personalizer.coding())
    found = backgrounds_for(personalizer, resolve_concepts(["cat", "dog"]), config, latents)
    assert len(found) >= 3
    assert {each.template for each in found} == set(PLACES)
    judge = bundled_judge()
    verdict = judge.judge([each.image for each in found])
    words = judge.vocabulary
    seen = verdict.presence[:, [words.classes.index("cat"), words.classes.index("dog")]]
    assert (seen.amax(1) < 0.5).float().mean() >= 0.75
    for each, background in zip(found, verdict.background, strict=True):
        assert words.backgrounds[int(background.argmax())] == ("snow" if "snow" in each.template else "night")


def test_none_without_prompts_or_mixtures(personalizer, quick):
    latents = LatentCache(personalizer.pipe.vae, personalizer.device, personalizer.coding())
    for changes in ({"mix": 0.3}, {"mix_prompts": PLACES}):
        config = quick.with_changes(**changes)
        assert backgrounds_for(personalizer, resolve_concepts(["cat", "dog"]), config, latents) == []


def test_mixtures_stand_on_each_of_them_and_on_their_own(personalizer, picture):
    masks = torch.zeros(2, CELLS, CELLS)
    masks[0, 4:12, 1:6] = masks[1, 4:12, 9:15] = 1
    rows = references_of(personalizer, [picture], [masks], size=1)
    red, blue = (Image.new("RGB", rows.images[0].size, colour) for colour in ((255, 0, 0), (0, 0, 255)))
    rows.backgrounds = [Background(red, PLACES[0]), Background(blue, PLACES[1])]
    noise = torch.zeros(4, CELLS, CELLS)
    seen = {"": 0, PLACES[0]: 0, PLACES[1]: 0}
    for i in range(60):
        variant, _ = rows.draw(random.Random(i), noise, View((0,), mixed=True))
        seen[variant.template] += 1
        shown = np.asarray(variant.image)
        for place, colour in ((PLACES[0], (255, 0, 0)), (PLACES[1], (0, 0, 255))):
            assert ((shown == colour).all(-1).mean() > 0.3) == (variant.template == place)
    assert min(seen.values()) > 8
    assert rows.draw(random.Random(0), noise, View((0, 1)))[0].template == ""


def test_prompts_without_a_place_are_refused():
    for wrong in (["in the snow"], ["{all}", " "], ["{both} at night"]):
        with pytest.raises(InputError, match="mix_prompts"):
            FitConfig.from_dict({"mix_prompts": wrong})

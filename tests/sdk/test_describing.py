"""The words a token starts from."""

from __future__ import annotations

import pytest
import torch

from sdk import Personalizer
from sdk.methods.token_init import best_description
from sdk.miniworld.references import reference_scene
from sdk.miniworld.renderer import render
from sdk.model.denoise import Denoiser
from sdk.model.latents import LatentCache


@pytest.fixture(scope="module")
def bundled():
    return Personalizer.from_pretrained("bundled", device="cpu")


def test_the_base_model_names_the_colours_of_a_picture(bundled):
    pipe = bundled.pipe
    conditioner = bundled.conditioner()
    scene = reference_scene("tune", 1)
    picture, _ = render(scene)
    latents = LatentCache(pipe.vae, torch.device("cpu")).mean(picture)
    colours = ["red", "yellow", "green", "blue", "purple", "white"]
    half = torch.zeros(1, 16, 16)
    for item, side in zip(scene.objects, (slice(0, 8), slice(8, 16)), strict=True):
        mask = half.clone()
        mask[..., side] = 1
        found = best_description(Denoiser(bundled), conditioner, item.noun, colours, latents, mask)
        assert found == item.colour


def test_a_fit_starts_from_the_best_candidates_and_remembers_them(personalizer, picture, quick):
    config = quick.with_changes(steps=1, learning_rate=1e-9, initializer_candidates=("red", "blue"))
    pack = personalizer.fit(picture, ["cat", "dog"], config=config)
    words = pack.provenance["initializers"]
    assert len(words) == 2
    assert set(words) <= {"red", "blue"}
    conditioner = personalizer.conditioner([])
    wanted = torch.stack([conditioner.embedding_of(word) for word in words])
    torch.testing.assert_close(pack.embeddings.detach().float(), wanted, atol=1e-3, rtol=1e-3)  # packs are float16

"""The model that ships with the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sdk import Personalizer
from sdk.miniworld.gates import measure_maps, measure_words
from sdk.miniworld.judge import bundled_judge
from sdk.miniworld.tokenizer import build_tokenizer
from sdk.miniworld.training.autoencoder import psnr
from sdk.miniworld.training.pools import render_pool
from sdk.model.loading import BUNDLED_FOLDER


@pytest.fixture(scope="module")
def bundled():
    return Personalizer.from_pretrained("bundled", device="cpu")


def test_weights_stay_small():
    files = [p for p in BUNDLED_FOLDER.parent.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 20e6
    assert not [p for p in files if p.suffix in (".bin", ".pt", ".pkl", ".ckpt")]


def test_loads_in_a_plain_pipeline():
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(BUNDLED_FOLDER, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a red car", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    assert image.size == (64, 64)


def test_no_file_names_where_it_was_made():
    for file in Path(BUNDLED_FOLDER).rglob("*.json"):
        assert "_name_or_path" not in file.read_text(encoding="utf-8"), file


def test_both_gates_pass(bundled):
    pipe, vocabulary = bundled.pipe, bundled_judge().vocabulary
    change, cosine = measure_words(pipe.tokenizer, pipe.text_encoder, vocabulary)
    assert change > 0.2
    assert cosine < 0.7
    own, other = measure_maps(
        pipe.tokenizer, pipe.text_encoder, pipe.unet, pipe.vae, pipe.scheduler, vocabulary, scenes=32
    )
    assert own >= 0.5
    assert own - other >= 0.3


def test_it_draws_what_is_asked(bundled):
    judge = bundled_judge()
    classes = judge.vocabulary.classes
    prompts = [f"photo of a red {noun}" for noun in classes for _ in range(4)]
    verdict = judge.judge(bundled.generate(prompts, seed=0, num_inference_steps=20).images)
    slots = torch.tensor([i for i in range(len(classes)) for _ in range(4)])
    assert (verdict.presence[torch.arange(len(prompts)), slots] > 0.5).float().mean() >= 0.75


def test_tokenizer_is_the_one_that_the_code_builds(bundled):
    for _ in range(5):  # a trainer that breaks ties by chance would differ between builds
        assert build_tokenizer().get_vocab() == bundled.pipe.tokenizer.get_vocab()
    text = "photo of a striped red cat and a dog on the beach, xyz"
    assert bundled.pipe.tokenizer(text).input_ids == build_tokenizer()(text).input_ids


def test_autoencoder_keeps_pictures(bundled):
    pool = render_pool(32, bundled_judge().vocabulary, seed=9, split="held_out", scaled=False)
    assert psnr(bundled.pipe.vae, pool.pictures) >= 32


def test_default_settings_are_valid(bundled):
    settings = json.loads(Path(BUNDLED_FOLDER, "defaults.json").read_text())
    config = bundled.default_config()
    for name, value in settings["fit"].items():
        assert config.to_dict()[name] == value
    assert settings["why"]

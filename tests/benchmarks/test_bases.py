"""The base models of the benchmarks are what their cards say, and no more than what the bundled one is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sdk import Personalizer
from sdk.miniworld.gates import measure_maps, measure_words
from sdk.miniworld.judge import bundled_judge
from sdk.model.loading import BUNDLED_FOLDER

NATURAL = Path(__file__).parents[2] / "benchmarks" / "bases" / "natural"


@pytest.fixture(scope="module")
def natural():
    return Personalizer.from_pretrained(NATURAL, device="cpu")


def card(line):
    """The figure in a line of the card's table."""
    found = re.search(rf"^\| {re.escape(line)}[^|]*\| ([0-9.]+)", (NATURAL / "README.md").read_text("utf-8"), re.M)
    assert found, line
    return float(found[1])


def test_words_and_maps_are_as_the_card_says(natural):
    pipe, vocabulary = natural.pipe, bundled_judge().vocabulary
    change, cosine = measure_words(pipe.tokenizer, pipe.text_encoder, vocabulary)
    assert 100 * change == pytest.approx(card("change of the text states by one colour word"), abs=1)
    assert cosine == pytest.approx(card("largest cosine of two nouns"), abs=0.01)
    parts = (pipe.tokenizer, pipe.text_encoder, pipe.unet, pipe.vae, pipe.scheduler)
    own, other = measure_maps(*parts, vocabulary)
    assert own == pytest.approx(card("IoU of a class word's map with its own object"), abs=0.01)
    assert other == pytest.approx(card("IoU with the other object"), abs=0.01)


def test_it_is_of_the_bundled_model_s_size_and_draws_what_is_asked(natural):
    files = [file for file in NATURAL.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 16e6
    of_bundled = (BUNDLED_FOLDER / "unet" / "config.json").read_text("utf-8")
    assert (NATURAL / "unet" / "config.json").read_text("utf-8") == of_bundled
    assert not any("_name_or_path" in file.read_text("utf-8") for file in files if file.suffix == ".json")
    judge = bundled_judge()
    prompts = [f"photo of a red {noun}" for noun in judge.vocabulary.classes for _ in range(2)]
    verdict = judge.judge(natural.generate(prompts, seed=0, num_inference_steps=20).images)
    asked = [slot for slot in range(len(judge.vocabulary.classes)) for _ in range(2)]
    assert (verdict.presence[range(len(prompts)), asked] > 0.5).float().mean() >= 0.75

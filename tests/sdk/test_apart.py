"""Subjects that are kept apart while they are drawn: against the definitions, and what it does to a drawing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sdk import Personalizer
from sdk.errors import InputError
from sdk.sampling import apart
from sdk.sampling.apart import divergence, settled
from sdk.unet.regions import LARGEST, Regions

PROMPT = "a <new1> cat and a <new2> dog"


def spot(row, column, side=8):
    there = torch.zeros(side, side)
    there[row : row + 3, column : column + 3] = 1
    return there


def test_divergence_is_ruled_by_the_worst_pair():
    maps = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.05
    line = torch.tensor([1.0, 0.0, 1.0]).mul(-2).exp()  # of a Gaussian of sigma 0.5, its middle is 1
    line[1] = 1.0
    kernel = (line[:, None] * line[None]) / line.sum() ** 2
    padded = torch.nn.functional.pad(maps[:, None], (1, 1, 1, 1), mode="replicate")
    blurred = torch.nn.functional.conv2d(padded, kernel[None, None])[:, 0]
    shares = blurred / blurred.sum((1, 2), keepdim=True)
    pairs = [(shares[i] * (shares[i] / shares[j]).log()).sum() for i in range(3) for j in range(3) if i != j]
    expected = len(pairs) / sum(1 / each for each in pairs)
    torch.testing.assert_close(divergence(maps), expected)
    far = torch.stack([spot(0, 0), spot(5, 5)])
    near = torch.stack([spot(0, 0), spot(1, 1)])
    assert divergence(far) > divergence(near) > 0
    assert divergence(torch.stack([spot(0, 0), spot(5, 5), spot(0, 5)])) > 3
    assert divergence(torch.stack([spot(0, 0), spot(5, 5), spot(0, 0)])) < 1e-3  # two in one place rule
    assert divergence(torch.zeros(2, 8, 8)).isfinite()


def test_a_cell_is_at_most_one_concepts():
    maps = torch.stack([spot(0, 0) + 0.6 * spot(4, 4), spot(4, 4)])
    places = settled(maps)
    assert torch.equal(places[0], spot(0, 0).bool())
    assert torch.equal(places[1], spot(4, 4).bool())
    assert not settled(torch.ones(2, 4, 4)).any()


def test_regions_bound_words_and_cells_of_others_alone():
    owner = torch.tensor([[-1, 0, 0, 1, -1], [-1, -1, -1, -1, -1]])
    regions = Regions(owner)
    assert regions.cross(64, torch.float32) is None
    assert regions.within(64, torch.float32) is None
    places = torch.stack([torch.stack([spot(0, 0), spot(5, 5)]), torch.zeros(2, 8, 8)]).bool()
    regions.settle(places)
    bound = regions.cross(64, torch.float32)[:, 0] < -1e30  # [B, N, T]
    first, second = (each.flatten() for each in places[0])
    assert bound[0][first].tolist() == [[False, False, False, True, False]] * 9
    assert bound[0][second].tolist() == [[False, True, True, False, False]] * 9
    assert not bound[0][~(first | second)].any()
    assert not bound[1].any()
    cells = regions.within(64, torch.float32)[:, 0] < -1e30
    assert torch.equal(cells[0], (first[:, None] & second) | (second[:, None] & first))
    assert not cells[1].any()
    assert regions.cross(16, torch.float16).shape == (2, 1, 16, 5)
    assert regions.cross(256, torch.float32).shape == (2, 1, 256, 5)
    assert regions.within(4 * LARGEST, torch.float32) is None  # such layers stay as they are
    assert regions.cross(16, torch.float16).isfinite().all()


@pytest.fixture
def pack(personalizer, picture, quick):
    return personalizer.fit(picture, ["cat", "dog"], config=quick, seed=0)


def draw(personalizer, prompt=PROMPT, **arguments):
    return personalizer.generate(prompt, **{"seed": 3, "num_inference_steps": 6} | arguments)


def pixels(result):
    return np.stack([np.asarray(image).astype(int) for image in result.images])


def test_only_pictures_of_several_concepts_change(personalizer, pack):
    prompts = [PROMPT, "a <new1> cat", "a cat and a dog"]
    plain, kept = draw(personalizer, prompts), draw(personalizer, prompts, separate=0.5)
    assert np.abs(pixels(plain)[0] - pixels(kept)[0]).max() > 3
    assert np.abs(pixels(plain)[1:] - pixels(kept)[1:]).max() <= 1
    again = draw(personalizer, PROMPT, separate=0.5)
    assert np.abs(pixels(again)[0] - pixels(kept)[0]).max() <= 1  # whatever else is in the batch
    assert np.array_equal(pixels(again), pixels(draw(personalizer, PROMPT, separate=0.5)))


def test_the_same_without_guidance_in_inference_mode_and_beside_a_callback(personalizer, pack):
    kept = draw(personalizer, separate=0.3, guidance_scale=1.0)
    with torch.inference_mode():
        inside = draw(personalizer, separate=0.3, guidance_scale=1.0)
    assert np.array_equal(pixels(kept), pixels(inside))
    seen = []
    draw(personalizer, separate=0.3, callback_on_step_end=lambda pipe, step, t, values: seen.append(step) or {})
    assert seen == list(range(6))


def test_latents_move_against_what_maps_share(personalizer, pack, monkeypatch):
    """Each move raises the worst pair's divergence, while it is below what is enough."""
    seen = []
    real = apart.divergence
    monkeypatch.setattr(apart, "ENOUGH", 100.0)
    monkeypatch.setattr(apart, "divergence", lambda maps: seen.append(real(maps).item()) or real(maps))
    found = {}
    for step in (0.0, 0.3):
        seen.clear()
        monkeypatch.setattr(apart, "STEP", step)
        draw(personalizer, separate=0.9, num_inference_steps=10, eta=0.0)
        found[step] = list(seen)
    assert len(found[0.0]) == len(found[0.3]) == 9
    assert found[0.0][0] == pytest.approx(found[0.3][0], rel=1e-4)
    assert found[0.3][-1] > found[0.0][-1]


def test_what_was_asked_is_recorded_and_what_cannot_be_is_refused(personalizer, pack):
    result = draw(personalizer, separate=0.2)
    assert json.loads(result.images[0].info["personalizer"])["separate"] == 0.2
    assert "separate" not in json.loads(draw(personalizer).images[0].info["personalizer"])
    for wrong in (-0.1, 1.1, "much", float("nan")):
        with pytest.raises(InputError, match="separate"):
            draw(personalizer, separate=wrong)
    with pytest.raises(InputError, match="square"):
        draw(personalizer, separate=0.2, height=64, width=32)
    draw(personalizer, "a <new1> cat", separate=0.2, height=64, width=32)
    fast = draw(personalizer, separate=0.2, speed="fast", num_inference_steps=20)
    assert any("separate" in note for note in fast.notes)


def test_nothing_is_left_of_it(tiny_model, picture, quick):
    personalizer = Personalizer.from_pretrained(tiny_model, device="cpu")
    before = {name: type(p) for name, p in personalizer.pipe.unet.attn_processors.items()}
    personalizer.fit(picture, ["cat", "dog"], config=quick, seed=0)
    plain = pixels(draw(personalizer))
    draw(personalizer, separate=0.5)
    assert np.array_equal(pixels(draw(personalizer)), plain)
    assert {name: type(p) for name, p in personalizer.pipe.unet.attn_processors.items()} == before

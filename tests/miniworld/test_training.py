"""What the bundled model and the judge are trained with."""

from __future__ import annotations

import random
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPTextModel

from sdk.miniworld.captions import write_caption
from sdk.miniworld.scene import CLASSES, COLOURS, SceneObject, Vocabulary, arrange, is_held_out_sketch, sample_scene
from sdk.miniworld.tokenizer import build_tokenizer
from sdk.miniworld.training import contrastive, diffusion, words
from sdk.miniworld.training.common import AveragedWeights, cosine_schedule, trapezoid_schedule
from sdk.miniworld.training.losses import Reading, confusion_loss, grounding_loss
from sdk.miniworld.training.models import build_autoencoder, build_text_encoder
from sdk.miniworld.training.muon import Muon, orthogonalised
from sdk.miniworld.training.pools import render_pool


def test_grounding_is_zero_for_the_mask_itself_and_ignores_words_without_object():
    mask = torch.zeros(1, 2, 16)
    mask[0, 0, :4] = 1.0
    maps = mask.clone()
    maps[0, 1] = torch.rand(16)  # "the": describes nothing
    assert grounding_loss(maps, mask) == pytest.approx(0, abs=1e-4)
    spread = maps.clone()
    spread[0, 0] = 1.0
    elsewhere = maps.clone()
    elsewhere[0, 0] = maps[0, 0].flip(0)
    assert 0.5 < grounding_loss(spread, mask) < grounding_loss(elsewhere, mask)
    assert torch.isfinite(grounding_loss(maps, torch.zeros_like(mask)))


def test_confusion_counts_words_of_different_objects_alone():
    states = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    assert confusion_loss(states, torch.tensor([[0, 0, -1]])) == 0
    assert confusion_loss(states, torch.tensor([[0, 1, -1]])) == pytest.approx(0.36)
    apart = torch.tensor([[[1.0, 0.0], [0.3, 0.9], [0.0, 1.0]]])
    assert confusion_loss(apart, torch.tensor([[0, 1, -1]])) == 0


def test_readings_are_what_was_said_so_far_of_each_object():
    words = ["a", "striped", "red", "cat", "and", "a", "dog", "with", "a", "hat"]
    owners = (-1, 0, 0, 0, -1, -1, 1, 1, 1, 1)
    classes, colours, patterns, hats = Reading.labels(words, owners)
    cat, dog, red = CLASSES.index("cat") + 1, CLASSES.index("dog") + 1, list(COLOURS).index("red") + 1
    none = -100
    assert classes == [none, 0, 0, cat, none, none, dog, dog, dog, dog]
    assert colours == [none, 0, red, red, none, none, 0, 0, 0, 0]
    assert patterns == [none, 1, 1, 1, none, none, 0, 0, 0, 0]
    assert hats == [none, 0, 0, 0, none, none, 0, 0, 0, 1]


def test_reading_learns_only_from_states_that_know():
    torch.manual_seed(0)
    reading = Reading(8)
    labels = torch.zeros(1, 4, 3, dtype=torch.int64)
    labels[:, :, 0] = -100
    states = torch.randn(1, 3, 8, requires_grad=True)
    reading(states, labels).backward()
    assert states.grad is not None
    assert states.grad[0, 0].abs().sum() == 0
    assert states.grad[0, 1].abs().sum() > 0


@pytest.mark.parametrize("shape", [(12, 40), (3, 16, 16), (20, 20)])
def test_muon_moves_singular_values_to_one(shape):
    torch.manual_seed(0)
    singular = torch.linalg.svdvals(orthogonalised(torch.randn(shape) * 1e-3))
    assert singular.max() < 1.25
    assert singular.median() > 0.6


def test_muon_update_is_orthogonal_for_tall_wide_and_convolution():
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in ((40, 6), (6, 40), (5, 4, 3, 3))]
    before = [w.detach().clone() for w in weights]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    Muon(weights, lr=0.1, weight_decay=0.0).step()
    for weight, old in zip(weights, before, strict=True):
        moved = (weight.detach() - old).flatten(1)
        singular = torch.linalg.svdvals(moved) / (0.1 * 0.2 * max(moved.shape) ** 0.5)
        assert singular.min() > 0.5
        assert singular.max() < 1.25
        assert (moved * weight.grad.flatten(1)).sum() < 0  # downhill


def test_muon_learns_and_resumes():
    def run(steps: int, optimizer_state=None, weight=None):
        w = torch.nn.Parameter(torch.zeros(4, 4) if weight is None else weight.clone())
        optimizer = Muon([w], lr=0.2)
        if optimizer_state is not None:
            optimizer.load_state_dict(optimizer_state)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (w - torch.arange(16.0).view(4, 4) / 16).square().sum()
            loss.backward()
            optimizer.step()
        return w.detach(), optimizer.state_dict(), loss.item()

    whole = run(40)
    half = run(20)
    again = run(20, half[1], half[0])
    assert whole[2] < 0.3 * run(1)[2]
    assert torch.equal(whole[0], again[0])


def test_schedules():
    assert cosine_schedule(0, 1000) == pytest.approx(0.01)
    assert cosine_schedule(999, 1000) == pytest.approx(0.02, abs=1e-3)
    assert trapezoid_schedule(0, 1000) == pytest.approx(0.01)
    assert trapezoid_schedule(500, 1000) == trapezoid_schedule(500, 5000) == 1
    assert trapezoid_schedule(800, 1000) == pytest.approx(0.5)
    assert trapezoid_schedule(1000, 1000) == 0


def test_averaged_weights_follow():
    module = torch.nn.Linear(2, 2)
    averaged = AveragedWeights(module, 0.9)
    with torch.no_grad():
        module.weight.fill_(1.0)
    for _ in range(100):
        averaged.update(module)
    assert torch.allclose(averaged.module.weight, module.weight, atol=1e-3)


def test_timesteps_cover_the_range_evenly():
    steps = diffusion.stratified_timesteps(50, torch.Generator().manual_seed(0))
    assert sorted((steps // 20).tolist()) == list(range(50))


def test_sketches_of_some_combinations_are_held_out():
    rng = random.Random(0)
    vocabulary = Vocabulary(sketch=1.0)
    for _ in range(200):
        assert not any(is_held_out_sketch(o.noun, o.pattern) for o in sample_scene(rng, vocabulary).objects)
        held_out = sample_scene(rng, vocabulary, split="held_out")
        assert all(is_held_out_sketch(o.noun, o.pattern) for o in held_out.objects)


def test_word_masks_show_the_object_that_the_word_describes(tiny_model):
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(tiny_model / "vae")
    pool = render_pool(8, Vocabulary(), seed=3, scaled=False)
    latents, texts, masks = diffusion.Batches(build_tokenizer(), pool, vae, batch_size=6)[0]
    assert latents.shape[0] == 6
    areas = F.adaptive_avg_pool2d(pool.masks.float(), 16).half().float().flatten(2)
    for row in range(6):
        for position in range(texts.owners.shape[1]):
            owner = int(texts.owners[row, position])
            if owner < 0:
                assert masks[row, position].sum() == 0
            else:
                assert any(torch.equal(masks[row, position], area[owner]) for area in areas)


def test_sketch_captions_leave_out_what_cannot_be_seen():
    rng = random.Random(0)
    scene = arrange(rng, [SceneObject("cat", "red", "blue", "striped")], "beach", "sketch")
    texts = [write_caption(scene, rng, keep=1.0).text for _ in range(20)]
    assert all("sketch" in text and "striped" in text for text in texts)
    assert not any("red" in text or "beach" in text for text in texts)


def test_training_resumes_to_the_same_weights(tmp_path, monkeypatch):
    torch.manual_seed(0)
    build_autoencoder(4).save_pretrained(tmp_path / "vae")
    monkeypatch.setattr(diffusion, "build_unet", partial(diffusion.build_unet, widths=(32, 32)))
    monkeypatch.setattr(words, "teach_reading", lambda *_: None)
    monkeypatch.setattr(diffusion, "measure_maps", lambda *_: (0.0, 0.0))
    common = {"steps": 4, "batch_size": 2, "pool_size": 4}
    diffusion.train(tmp_path / "whole", tmp_path / "vae", **common)
    diffusion.train(tmp_path / "parts", tmp_path / "vae", **common, stop_after=0)
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["step"] == 1
    diffusion.train(tmp_path / "parts", tmp_path / "vae", **common)
    whole, parts = (torch.load(tmp_path / n / "checkpoint.pt", weights_only=True) for n in ("whole", "parts"))
    assert whole["step"] == parts["step"] == 4
    for name in ("muon", "adamw"):
        rates = [[group["lr"] for group in run[name]["param_groups"]] for run in (whole, parts)]
        assert rates[0] == rates[1]
    for name in ("unet", "text_encoder", "averaged_unet"):
        for key, value in whole[name].items():
            # AdamW's first updates are the signs of gradients, and sums over threads are not always in one order.
            torch.testing.assert_close(value, parts[name][key], rtol=0, atol=5e-4, msg=f"{name} {key}")
    assert (tmp_path / "whole" / "model" / "model_index.json").is_file()


def test_pictures_and_captions_find_each_other_and_go_on_after_a_stop(tmp_path):
    assert contrastive.contrastive_loss(torch.eye(4) * 50) < 1e-6
    assert contrastive.contrastive_loss(torch.eye(4).flip(0) * 50) > 20
    common = {"steps": 3, "batch_size": 4, "pool_size": 8, "vocabulary": Vocabulary(alike=0.5)}
    contrastive.train(tmp_path / "whole", **common)
    contrastive.train(tmp_path / "parts", **common, stop_after=0)
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["step"] == 1
    contrastive.train(tmp_path / "parts", **common)
    whole, parts = (CLIPTextModel.from_pretrained(tmp_path / name / "text_encoder") for name in ("whole", "parts"))
    for (name, value), other in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=3e-3, msg=name)


def test_a_finished_text_encoder_stays_as_it_is(tmp_path, monkeypatch):
    torch.manual_seed(0)
    build_autoencoder(4).save_pretrained(tmp_path / "vae")
    finished = build_text_encoder(build_tokenizer(), words_apart=False)
    finished.save_pretrained(tmp_path / "text")
    monkeypatch.setattr(diffusion, "build_unet", partial(diffusion.build_unet, widths=(32, 32)))
    monkeypatch.setattr(diffusion, "measure_maps", lambda *_: (0.0, 0.0))
    common = {"steps": 3, "batch_size": 2, "pool_size": 4, "finished_text_encoder": tmp_path / "text"}
    diffusion.train(tmp_path / "whole", tmp_path / "vae", **common)
    diffusion.train(tmp_path / "parts", tmp_path / "vae", **common, stop_after=0)
    diffusion.train(tmp_path / "parts", tmp_path / "vae", **common)
    whole, parts = (torch.load(tmp_path / n / "checkpoint.pt", weights_only=True) for n in ("whole", "parts"))
    assert "text_encoder" not in whole
    for key, value in whole["averaged_unet"].items():
        torch.testing.assert_close(value, parts["averaged_unet"][key], rtol=0, atol=5e-4, msg=key)
    written = CLIPTextModel.from_pretrained(tmp_path / "whole" / "model" / "text_encoder")
    for key, value in written.state_dict().items():
        assert torch.equal(value, finished.state_dict()[key].half().float()), key


@pytest.mark.parametrize("alike", [0.0, 0.5])
def test_two_of_one_class_come_as_often_as_asked_for(alike):
    rng = random.Random(3)
    scenes = [sample_scene(rng, Vocabulary(alike=alike, object_counts=(0, 0.5, 0.5))) for _ in range(400)]
    share = sum(len({o.noun for o in scene.objects}) < len(scene.objects) for scene in scenes) / 400
    assert share == pytest.approx(alike, abs=0.08)
